"""What stands beside a vocabulary: the tokenizer's class, its added and special tokens, what goes around a text.

The names are those of transformers' folders: tokenizer_config.json, special_tokens_map.json, added_tokens.json, and
`model_type` of config.json where no class is named.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import tokenizers
from tokenizers import AddedToken, processors

from lepton_edge.checkpoint.strict_json import brief, read_object
from lepton_edge.errors import TokenizerError

CONFIG = "tokenizer_config.json"
MAX_TOKENS = 1 << 22  # fifteen times the largest vocabulary that is known
NO_CLASS = (None, "PreTrainedTokenizer", "TokenizersBackend")


@dataclass(frozen=True)
class Rules:
    """What a tokenizer's class implies, and no file says.

    Attributes:
        special: special tokens that it has unless a file names others: {'bos_token': '<s>'}.
        begin, end: which of them a text gets, or None.
    """

    special: Mapping[str, str] = field(default_factory=dict)
    begin: str | None = None
    end: str | None = None


R = TypeVar("R", bound=Rules)


class Settings:
    """The files beside a vocabulary.

    Attributes:
        folder: where they lie.
        model_type: of config.json, or None.
    """

    def __init__(self, folder: Path) -> None:
        """Raises TokenizerError where a file is damaged; a missing one says nothing."""
        self.folder = folder
        self._config = object_of(folder / CONFIG)
        self._named = object_of(folder / "special_tokens_map.json") | self._config
        self._added = object_of(folder / "added_tokens.json")
        self.model_type = object_of(folder / "config.json").get("model_type")

    def rules(self, classes: Mapping[str, R], model_types: Mapping[str, str], path: Path) -> R:
        """The rules of the class that the folder names, or of the one that its model type has.

        Raises:
            TokenizerError: no class is named, or one whose rules are not known: ids would be a guess.
        """
        name = self._config.get("tokenizer_class")
        name = name.removesuffix("Fast") if isinstance(name, str) else name
        if name in NO_CLASS:
            name = model_types.get(self.model_type) if isinstance(self.model_type, str) else None
        if isinstance(name, str) and name in classes:
            return classes[name]
        known = ", ".join(sorted(classes))
        said = "names no tokenizer_class" if name is None else f"names the tokenizer_class {brief(name)}"
        raise TokenizerError(
            f"{self.folder / CONFIG}: {said}, which {path.name} alone does not explain; expected one of {known}; "
            "name it there, or save the tokenizer with transformers' save_pretrained, which writes tokenizer.json"
        )

    def names_one_of(self, classes: Mapping[str, Rules]) -> bool:
        """Whether tokenizer_config.json names one of the classes."""
        name = self._config.get("tokenizer_class")
        return isinstance(name, str) and name.removesuffix("Fast") in classes

    def flag(self, name: str, default: bool) -> bool:
        """A yes or no of tokenizer_config.json; `default` where it is absent or null."""
        value = self._config.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise TokenizerError(f"{self.folder / CONFIG}: {name} is {brief(value)}; expected true, false or null")
        return value

    def count(self, name: str, default: int) -> int:
        """A number of tokens in tokenizer_config.json; `default` where it is absent or null."""
        value = self._config.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_TOKENS:
            raise TokenizerError(f"{self.folder / CONFIG}: {name} is {brief(value)}; expected a number of tokens")
        return value

    def refuse(self, name: str, *harmless: Any) -> None:
        """An option that is not supported: an error unless it is absent or has a harmless value."""
        value = self._config.get(name)
        if value is not None and value not in harmless:
            raise TokenizerError(
                f"{self.folder / CONFIG}: {name} is {brief(value)}, which is not supported; save the tokenizer with "
                "transformers' save_pretrained, which writes tokenizer.json"
            )

    def special(self, rules: Rules) -> dict[str, str]:
        """The special tokens by name ('bos_token'): those of the files, else of the class; without a null one."""
        found = {name: content_of(self._named[name]) if name in self._named else default
                 for name, default in rules.special.items()}  # fmt: skip
        found |= {name: content_of(self._named[name]) for name in ("bos_token", "eos_token") if name in self._named}
        return {name: content for name, content in found.items() if content is not None}

    def added(self, raw: bool = False) -> dict[int, AddedToken]:
        """The tokens that were added to a vocabulary, by id, lowest first.

        Args:
            raw: find all of them in the text as it is, also those that are to be found in the normalized text.
        Raises:
            TokenizerError: no number, no text, or two tokens with one id.
        """
        found: dict[int, AddedToken] = {}
        where = self.folder / CONFIG
        for key, value in _object_in(self._config, "added_tokens_decoder", where).items():
            token_id = int(key) if key.isascii() and key.isdigit() and len(key) < 10 else -1
            found[_id(token_id, key, where)] = _token(value, where, raw=raw)
        named = {content_of(value) for value in self._values()}
        where = self.folder / "added_tokens.json"
        for content, token_id in self._added.items():
            token = AddedToken(content, special=content in named, normalized=not raw and content not in named)
            if found.setdefault(_id(token_id, content, where), token).content != content:
                raise TokenizerError(
                    f"{where}: {brief(content)} has the id {token_id}, which {CONFIG} gives to "
                    f"{brief(found[token_id].content)}; correct one of the files"
                )
        return dict(sorted(found.items()))

    def add_to(self, backend: tokenizers.Tokenizer, tokens: Iterable[AddedToken], rules: Rules, path: Path) -> None:
        """Make tokens of the vocabulary added ones, and special those that the files or the class name so.

        They are found in a text before anything else happens to it. A name without a token says nothing.

        Raises:
            TokenizerError: the class puts a token around each text that the vocabulary lacks.
        """
        found = {token.content: token for token in tokens}
        named = [_token(value, self.folder / CONFIG, special=True) for value in self._values()]
        named += [AddedToken(content, special=True, normalized=False) for content in self.special(rules).values()]
        for token in named:
            if token.content in found:
                found[token.content].special = True
            elif backend.token_to_id(token.content) is not None:
                found[token.content] = token
        backend.add_tokens(list(found.values()))
        self._surround(backend, rules, path)

    def _surround(self, backend: tokenizers.Tokenizer, rules: Rules, path: Path) -> None:
        """BOS and EOS around each text, as `add_bos_token` and `add_eos_token` say, else the class."""
        special = self.special(rules)
        begin = self._side("add_bos_token", "bos_token", rules.begin)
        end = self._side("add_eos_token", "eos_token", rules.end)
        before, after = ([special[name]] if name in special else [] for name in (begin, end))
        surround(backend, before, after, path)

    def _side(self, flag: str, name: str, default: str | None) -> str | None:
        if self.flag(flag, default == name):
            return name
        return None if default == name else default

    def _values(self) -> list[Any]:
        """What the files give for special tokens: strings, or objects with `content`."""
        values = [value for name, value in self._named.items() if name.endswith("_token")]
        for name in ("additional_special_tokens", "extra_special_tokens"):
            more = self._named.get(name)
            values += more if isinstance(more, list) else list(more.values()) if isinstance(more, dict) else []
        return [value for value in values if content_of(value) is not None]


def surround(backend: tokenizers.Tokenizer, before: list[str], after: list[str], path: Path) -> None:
    """Put tokens around each text that is encoded with special tokens.

    Raises:
        TokenizerError: the vocabulary lacks one; `path` is where it lies.
    """
    ids = {content: backend.token_to_id(content) for content in before + after}
    for content, token_id in ids.items():
        if token_id is None:
            raise TokenizerError(
                f"{path}: has no token {brief(content)}, which goes around each text; expected it in the "
                f"vocabulary, or another in {CONFIG}"
            )
    if ids:
        single = [*before, "$A", *after]
        backend.post_processor = processors.TemplateProcessing(single, special_tokens=list(ids.items()))


def object_of(path: Path) -> dict[str, Any]:
    """A JSON object; {} where there is no such file."""
    return read_object(path, TokenizerError) if os.path.lexists(path) else {}


def input_names(folder: Path) -> list[Any] | None:
    """What the tokenizer of a folder gives a model, as tokenizer_config.json names it; None where it does not."""
    names = object_of(folder / CONFIG).get("model_input_names")
    return names if isinstance(names, list) else None


def named_token(folder: Path, name: str) -> str | None:
    """The token that a folder's files call so ('mask_token'), or None."""
    named = object_of(folder / "special_tokens_map.json") | object_of(folder / CONFIG)
    return content_of(named.get(name))


def content_of(token: Any) -> str | None:
    """The text of a token as in tokenizer_config.json: a string, or an object with `content`; else None."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) and content else None


def numbered(strings: Mapping[int, str], path: Path) -> list[str]:
    """The strings in the order of their ids.

    Raises:
        TokenizerError: an id is missing, or two ids have one string.
    """
    count = len(strings)
    if count > MAX_TOKENS:
        raise TokenizerError(f"{path}: has {count} tokens; expected at most {MAX_TOKENS}")
    missing = next((token_id for token_id in range(count) if token_id not in strings), None)
    if missing is not None:
        raise TokenizerError(
            f"{path}: has no token with the id {missing}, but larger ids; expected every id from 0 on once; "
            "copy the tokenizer's files again, added_tokens.json and tokenizer_config.json too"
        )
    listed = [strings[token_id] for token_id in range(count)]
    first: dict[str, int] = {}
    for token_id, string in enumerate(listed):
        if first.setdefault(string, token_id) != token_id:
            raise TokenizerError(
                f"{path}: the token {brief(string)} has the ids {first[string]} and {token_id}; expected one id each"
            )
    return listed


def _object_in(config: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    value = config.get(name)
    if value is not None and not isinstance(value, dict):
        raise TokenizerError(f"{path}: {name} is {brief(value)}; expected an object")
    return value or {}


def _id(token_id: Any, key: str, path: Path) -> int:
    if isinstance(token_id, bool) or not isinstance(token_id, int) or not 0 <= token_id < MAX_TOKENS:
        raise TokenizerError(f"{path}: the added token {brief(key)} has no proper id; expected 0 to {MAX_TOKENS - 1}")
    return token_id


def _token(value: Any, path: Path, special: bool = False, raw: bool = False) -> AddedToken:
    content = content_of(value)
    if content is None:
        raise TokenizerError(f"{path}: {brief(value)} is no token; expected a string, or an object with `content`")
    if not isinstance(value, dict):
        return AddedToken(content, special=special, normalized=not special and not raw)
    special = special or value.get("special") is True
    flags = {name: value.get(name) is True for name in ("single_word", "lstrip", "rstrip")}
    normalized = value.get("normalized", not special) is True and not raw
    return AddedToken(content, special=special, normalized=normalized, **flags)
