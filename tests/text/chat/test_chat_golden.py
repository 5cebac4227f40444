"""Real chat templates say what transformers makes of them; see tools/make_chat_golden.py."""

import hashlib
import json
from pathlib import Path

import pytest
from golden.chats import CHATS, NOW, TOKENS

from lepton_edge.errors import LeptonError, RequestError, TemplateError
from lepton_edge.text.chat import ChatTemplate, read_documents, read_messages, read_tools

pytest.importorskip("jinja2", reason="needs the extra 'chat'")
GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "chat_templates.json").read_text(encoding="utf-8"))


def rendered(template: ChatTemplate, chat: dict) -> str:
    """What transformers' `apply_chat_template` would be given, through our checks."""
    return template.render(
        read_messages(chat["messages"]),
        read_tools(chat.get("tools")),
        read_documents(chat.get("documents")),
        chat.get("add_generation_prompt", True),
        {**TOKENS, **chat.get("values", {})},
    )


@pytest.mark.parametrize("name", GOLDEN)
def test_templates_say_what_transformers_says(shared, monkeypatch, name: str) -> None:
    monkeypatch.setattr("lepton_edge.text.chat.sandbox.now", lambda: NOW)
    path = shared / "chat_templates" / "llama_cpp_templates" / f"{name}.jinja"
    template = ChatTemplate(path.read_text(encoding="utf-8"), path.name)
    found = {}
    for chat, options in CHATS.items():
        try:
            found[chat] = hashlib.sha256(rendered(template, options).encode()).hexdigest()[:16]
        except LeptonError as error:
            found[chat] = type(error.__cause__).__name__
            assert type(error) is (RequestError if found[chat] == "TemplateError" else TemplateError)
            assert str(error).startswith(f"{path.name}, line ")
    assert found == GOLDEN[name]


def test_the_golden_file_has_every_conversation(shared) -> None:
    stored = {path.stem for path in (shared / "chat_templates" / "llama_cpp_templates").glob("*.jinja")}
    assert stored == set(GOLDEN) and len(GOLDEN) == 55
    assert all(set(row) == set(CHATS) for row in GOLDEN.values())
