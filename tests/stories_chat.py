"""The embedded story model as a chat model: its folder with a small template."""

import json
import shutil
from pathlib import Path

from lepton_edge import embedded

TEMPLATE = """
{{- bos_token -}}
{%- for m in messages -%}
{{ m.content }}{{ eos_token if m.role == 'assistant' else ' ' }}
{%- endfor -%}
"""


def write_folder(path: Path, endless: bool = False) -> Path:
    """Copies the model to `path`. endless: no token ends an answer, and the context is large."""
    shutil.copytree(embedded.find("stories"), path)
    (path / "chat_template.jinja").write_text(TEMPLATE.replace("eos_token", "''") if endless else TEMPLATE)
    if endless:
        change(path / "generation_config.json", eos_token_id=[], max_new_tokens=1 << 19)
        change(path / "tokenizer_config.json", eos_token=None)
        change(path / "config.json", max_position_embeddings=1 << 20)
    return path


def change(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
