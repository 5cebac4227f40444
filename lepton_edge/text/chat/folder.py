"""The chat templates of a model folder, and the special tokens that they are told.

As in transformers: `chat_template.jinja` and `additional_chat_templates/*.jinja`, else "chat_template" in
`tokenizer_config.json`, one text or a list of named ones, else `chat_template.json`.
"""

from __future__ import annotations

import os
import reprlib
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lepton_edge.checkpoint.strict_json import read_object
from lepton_edge.errors import RequestError, TemplateError
from lepton_edge.text.chat.template import MOST_SOURCE, ChatTemplate, require_jinja

CONFIG = "tokenizer_config.json"
DEFAULT = "default"
WITH_TOOLS = "tool_use"
MOST_TEMPLATES = 64
TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class ChatTemplates:
    """All templates of a folder, by name; compiled when first asked for.

    Attributes:
        folder: the model folder.
        special_tokens: 'bos_token' and others to their text, as templates expect them.
    """

    def __init__(self, folder: Path) -> None:
        """Reads the folder. Raises TemplateError: a file is damaged; MachineError: jinja2 is missing."""
        require_jinja()
        self.folder = folder
        config = _object(folder / CONFIG)
        self._sources = _of_files(folder) or _of_config(config.get("chat_template"), folder / CONFIG)
        if not self._sources:
            path = folder / "chat_template.json"
            self._sources = _of_config(_object(path).get("chat_template"), path)
        self.special_tokens = _special_tokens(_object(folder / "special_tokens_map.json") | config)
        self._compiled: dict[str, ChatTemplate] = {}

    @property
    def names(self) -> Sequence[str]:
        """What `get` takes."""
        return sorted(self._sources)

    def get(self, name: str | None = None, tools: bool = False) -> ChatTemplate:
        """A template.

        Args:
            name: which; None: 'tool_use' where there are tools and such a template, else 'default', else the only one.
            tools: whether there are tools.
        Raises:
            TemplateError: the folder has none, or it is no Jinja template.
            RequestError: there is none of that name; or several, and no default.
        """
        if not self._sources:
            raise TemplateError(
                f"{self.folder}: has no chat template; expected chat_template.jinja, or \"chat_template\" in {CONFIG}: "
                "this model continues texts (generate); for a chat, add its template"
            )
        if name is None:
            wanted = [WITH_TOOLS] * tools + [DEFAULT]
            name = next((choice for choice in wanted if choice in self._sources), None)
            if name is None and len(self._sources) == 1:
                name = next(iter(self._sources))
        if name is None or name not in self._sources:
            said = "not named" if name is None else reprlib.repr(name)
            raise RequestError(
                f"the chat template is {said}; {self.folder} has {', '.join(self.names)}; name one of them"
            )
        if name not in self._compiled:
            source, where = self._sources[name]
            self._compiled[name] = ChatTemplate(source, where)
        return self._compiled[name]


Sources = dict[str, tuple[str, str]]  # name to Jinja text and the place it was found


def _of_files(folder: Path) -> Sources:
    found: Sources = {}
    path = folder / "chat_template.jinja"
    if os.path.lexists(path):
        found[DEFAULT] = _read(path), str(path)
    others = folder / "additional_chat_templates"
    paths = sorted(others.glob("*.jinja")) if others.is_dir() else []
    if len(paths) > MOST_TEMPLATES:
        raise TemplateError(f"{others}: has {len(paths)} templates; expected at most {MOST_TEMPLATES}; remove some")
    for path in paths:
        found[path.stem] = _read(path), str(path)
    return found


def _of_config(value: Any, path: Path) -> Sources:
    """The template or the named ones that a JSON file gives as "chat_template"."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {DEFAULT: (value, str(path))}
    entries = value if isinstance(value, list) else [value]
    if len(entries) > MOST_TEMPLATES:
        raise TemplateError(f"{path}: has {len(entries)} chat templates; expected at most {MOST_TEMPLATES}")
    found: Sources = {}
    for entry in entries:
        name, source = (entry.get("name"), entry.get("template")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(source, str) or name in found:
            raise TemplateError(
                f"{path}: chat_template has {reprlib.repr(entry)}; expected a Jinja text, or a list of "
                '{"name": …, "template": …} with different names; correct the file'
            )
        found[name] = source, f"{path} ({name})"
    return found


def _special_tokens(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in TOKENS:
        text = _text(config.get(key))
        if text is not None:
            found[key] = text
    others = config.get("additional_special_tokens")
    if isinstance(others, list):
        found["additional_special_tokens"] = [text for text in map(_text, others) if text is not None]
    return found


def _text(token: Any) -> str | None:
    """A token given as a string, or as an object with `content`."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _object(path: Path) -> dict[str, Any]:
    return read_object(path, TemplateError) if os.path.lexists(path) else {}


def _read(path: Path) -> str:
    """The text of a regular file of a sensible size. Raises TemplateError."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise TemplateError(f"{path}: is not a file; expected a chat template; replace it")
        with open(path, "rb") as file:
            data = file.read(MOST_SOURCE + 1)
    except OSError as error:
        raise TemplateError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    if len(data) > MOST_SOURCE:
        raise TemplateError(f"{path}: is larger than {MOST_SOURCE >> 10} KiB; expected a chat template")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TemplateError(f"{path}: byte {error.start} is not UTF-8; expected UTF-8 text; convert the file") from None
