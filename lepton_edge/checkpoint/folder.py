"""A new model folder, written beside its place and moved there when it is complete."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from lepton_edge.errors import MachineError, RequestError

__all__ = ["check_target", "copy_files", "new_folder"]

# What belongs to a model besides config.json and the weights: tokenizer, templates, defaults, model card, licence.
COPIED = (
    *("generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges*"),
    *("*.model", "chat_template*", "*.jinja", "README*", "LICENSE*", "NOTICE*"),
    *("lepton.json", "modules.json", "sentence_*_config.json", "config_sentence_transformers.json"),
)
# What follows the transformer in a folder of sentence-transformers lies in folders such as 1_Pooling.
MODULES = ("[0-9]*_*/config.json", "[0-9]*_*/model.safetensors")


def check_target(target: Path) -> None:
    """RequestError unless `target` can be a new folder."""
    if os.path.lexists(target):
        raise RequestError(f"{target}: exists already; expected a new folder; choose another name, or remove it")
    if not target.parent.is_dir():
        raise RequestError(f"{target}: the folder it would be in does not exist; create {target.parent} first")


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """An empty folder beside `target`, which becomes `target` at the end; it is removed when anything fails.

    RequestError where `target` cannot be made, MachineError when the disk refuses.
    """
    check_target(target)
    temporary = target.with_name(f"{target.name}.tmp-{secrets.token_hex(4)}")
    try:
        temporary.mkdir()
        yield temporary
        temporary.rename(target)
    except OSError as cause:
        raise MachineError(f"{target}: cannot be written ({cause}); free some space, or write elsewhere") from cause
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # gone already when all went well


def copy_files(source: Path, target: Path) -> None:
    """Copy what belongs to a model besides its config and its weights."""
    for path in sorted({path for pattern in COPIED + MODULES for path in source.glob(pattern)}):
        if path.is_file():
            place = target / path.relative_to(source)
            place.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, place)
