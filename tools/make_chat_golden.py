"""Write tests/golden/chat_templates.json: what transformers makes of the conversations in tests/golden/chats.py.

    python tools/make_chat_golden.py FOLDER

FOLDER holds *.jinja chat templates. Needs transformers. For each template and conversation the file has the beginning
of the SHA-256 of the text, or the class of the error where transformers refuses: nothing of the templates themselves.
"""

import hashlib
import json
import sys
from datetime import datetime
from pathlib import Path

import tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from golden.chats import CHATS, NOW, TOKENS

OUT = Path(__file__).parents[1] / "tests" / "golden" / "chat_templates.json"


class Then(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz=None):
        return NOW


def golden(tokenizer: PreTrainedTokenizerFast, source: str, chat: dict) -> str:
    """16 hexadecimal digits, or an error's class."""
    options = {"add_generation_prompt": True, **chat, **chat.get("values", {})}
    options.pop("values", None)
    try:
        text = tokenizer.apply_chat_template(
            options.pop("messages"), chat_template=source, tokenize=False, **options
        )
    except Exception as error:
        return type(error).__name__
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def main(folder: str) -> None:
    chat_template_utils.datetime = Then
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0, "</s>": 1}, "<s>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **TOKENS)
    assert tokenizer.special_tokens_map == TOKENS, tokenizer.special_tokens_map
    made = {
        path.stem: {name: golden(tokenizer, path.read_text(encoding="utf-8"), chat) for name, chat in CHATS.items()}
        for path in sorted(Path(folder).glob("*.jinja"))
    }
    OUT.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    refused = sum(not value[0].isdigit() and value[0].isupper() for row in made.values() for value in row.values())
    print(f"{OUT}: {len(made)} templates, {len(made) * len(CHATS)} texts, {refused} of them refusals")


if __name__ == "__main__":
    main(*sys.argv[1:])
