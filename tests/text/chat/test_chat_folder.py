"""Which template of a model folder is used."""

import json
from pathlib import Path

import pytest

from lepton_edge.errors import RequestError, TemplateError
from lepton_edge.text.chat import ChatTemplates

pytest.importorskip("jinja2", reason="needs the extra 'chat'")


def write(folder: Path, **files) -> ChatTemplates:
    """Files by name, `__` for a dot and `___` for a slash; JSON unless they are text."""
    for name, content in files.items():
        path = folder / name.replace("___", "/").replace("__", ".")
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return ChatTemplates(folder)


def said(templates: ChatTemplates, name: str | None = None, tools: bool = False) -> str:
    return templates.get(name, tools).render([{"role": "user", "content": "x"}], values=templates.special_tokens)


def test_one_text_in_the_tokenizer_config(tmp_path) -> None:
    templates = write(tmp_path, tokenizer_config__json={"chat_template": "config {{ bos_token }}", "bos_token": "<s>"})
    assert said(templates) == said(templates, tools=True) == "config <s>"
    assert templates.get().where == str(tmp_path / "tokenizer_config.json")


def test_several_named_ones(tmp_path) -> None:
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"},
             {"name": "rag", "template": "rag"}]  # fmt: skip
    templates = write(tmp_path, tokenizer_config__json={"chat_template": named})
    assert (said(templates), said(templates, tools=True), said(templates, "rag")) == ("plain", "tools", "rag")
    assert templates.names == ["default", "rag", "tool_use"]
    with pytest.raises(RequestError, match=r"the chat template is 'other'; .* has default, rag, tool_use"):
        templates.get("other")


def test_several_without_a_default(tmp_path) -> None:
    named = [{"name": "a", "template": "a"}, {"name": "b", "template": "b"}]
    templates = write(tmp_path, tokenizer_config__json={"chat_template": named})
    with pytest.raises(RequestError, match="not named"):
        templates.get()
    assert said(templates, "b") == "b"


def test_files_come_before_the_config(tmp_path) -> None:
    templates = write(
        tmp_path,
        tokenizer_config__json={"chat_template": [{"name": "tool_use", "template": "config"}]},
        chat_template__jinja="file",
        additional_chat_templates___rag__jinja="rag",
    )
    assert (said(templates), said(templates, tools=True), said(templates, "rag")) == ("file", "file", "rag")


def test_the_old_json_file(tmp_path) -> None:
    assert said(write(tmp_path, chat_template__json={"chat_template": "json"})) == "json"
    assert said(write(tmp_path, tokenizer_config__json={"chat_template": "config"})) == "config"


def test_special_tokens_come_from_both_files(tmp_path) -> None:
    templates = write(
        tmp_path,
        special_tokens_map__json={"bos_token": "<old>", "eos_token": {"content": "</s>"}, "unk_token": None},
        tokenizer_config__json={"bos_token": {"content": "<s>"}, "additional_special_tokens": ["<a>", 5]},
    )
    assert templates.special_tokens == {"bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": ["<a>"]}


def test_a_folder_without_one(tmp_path) -> None:
    with pytest.raises(TemplateError, match=r"has no chat template; expected chat_template\.jinja"):
        ChatTemplates(tmp_path).get()


@pytest.mark.parametrize(
    "value",
    [5, ["x"], {"default": "x"}, [{"name": "a"}], [{"name": 1, "template": "x"}], [{"name": "a", "template": "x"}] * 2,
     [{"name": str(i), "template": ""} for i in range(65)]],
)  # fmt: skip
def test_wrong_values_in_the_config(tmp_path, value) -> None:
    with pytest.raises(TemplateError, match=r"tokenizer_config\.json"):
        write(tmp_path, tokenizer_config__json={"chat_template": value})


def test_damaged_files(tmp_path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"ab\xff")
    with pytest.raises(TemplateError, match=r"chat_template\.jinja: byte 2 is not UTF-8"):
        ChatTemplates(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(b"a" * ((1 << 20) + 1))
    with pytest.raises(TemplateError, match="larger than 1024 KiB"):
        ChatTemplates(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "chat_template.jinja").mkdir()
    with pytest.raises(TemplateError, match="is not a file"):
        ChatTemplates(tmp_path)


def test_the_name_of_a_broken_template_is_said(tmp_path) -> None:
    named = [{"name": "default", "template": "{% x %}"}]
    with pytest.raises(TemplateError, match=r"tokenizer_config\.json \(default\), line 1: "):
        write(tmp_path, tokenizer_config__json={"chat_template": named}).get()
