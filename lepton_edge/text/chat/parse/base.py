"""What every answer's parser uses: the parts of an answer, text that may be half a marker, JSON that comes in pieces.

A parser reads what a stranger's model writes. Whatever that is, no text is lost and none is shown twice: what looks
like a tool call and is none (cut JSON, a wrong shape) comes as text, and so does half a marker that ends an answer.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

MOST_DEPTH = 64
MOST_HEADER = 512  # characters of a name or a header

_STRUCTURE = re.compile(r'["\\{}\[\]]')


@dataclass(frozen=True)
class ToolCall:
    """What the model wants to be called.

    Attributes:
        name: of the tool.
        arguments: by name, as JSON has them.
        id: the model's own name for this call, where its format has one.
    """

    name: str
    arguments: dict[str, Any]
    id: str | None = None


@dataclass(frozen=True)
class Part:
    """A part of an answer; the parts' texts, reasonings and calls, joined, are the answer's."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()

    def __add__(self, other: Part) -> Part:
        return Part(self.text + other.text, self.reasoning + other.reasoning, self.calls + other.calls)


class Writer:
    """Collects an answer's parts.

    Space around the text, the reasoning and the calls is left out, but for what ends the text.
    """

    def __init__(self) -> None:
        self._text, self._reasoning = _Trimmed(), _Trimmed()
        self._calls: list[ToolCall] = []

    def text(self, text: str) -> None:
        """More text."""
        self._text.add(text)

    def reasoning(self, text: str) -> None:
        """More reasoning."""
        self._reasoning.add(text)

    def call(self, call: ToolCall) -> None:
        """A tool call; it ends a text before it."""
        self._text.cut()
        self._calls.append(call)

    def cut(self) -> None:
        """End a block of reasoning."""
        self._text.cut()
        self._reasoning.cut()

    def take(self, last: bool = False) -> Part:
        """What is certain now and was not taken before; with `last` the text's last space as well."""
        calls, self._calls = tuple(self._calls), []
        return Part(self._text.take(last), self._reasoning.take(False), calls)


class _Trimmed:
    """Text without the space before it; the space after it is held back."""

    def __init__(self) -> None:
        self._ready = ""
        self._space = ""
        self._fresh = True

    def add(self, text: str) -> None:
        text = text.lstrip() if self._fresh else text
        if not text:
            return
        whole = self._space + text
        body = whole.rstrip()
        self._ready += body
        self._space = whole[len(body) :]
        self._fresh = False

    def cut(self) -> None:
        self._space = ""
        self._fresh = True

    def take(self, last: bool) -> str:
        ready = self._ready + (self._space if last else "")
        self._ready = ""
        return ready


class Content(Protocol):
    """A tool call format: it takes an answer's text, without reasoning, and writes its parts.

    Attributes:
        markers: special tokens that it has to see.
        ends: special tokens that end an answer.
    """

    markers: frozenset[str]
    ends: frozenset[str]

    def push(self, text: str, writer: Writer) -> None: ...
    def flush(self, writer: Writer) -> None: ...


class PlainContent:
    """Text in which nothing is a tool call."""

    markers: frozenset[str] = frozenset()
    ends: frozenset[str] = frozenset()

    def push(self, text: str, writer: Writer) -> None:
        writer.text(text)

    def flush(self, writer: Writer) -> None:
        """Nothing is held back."""


class Balanced:
    """Finds the end of a JSON object or list that comes in pieces; brackets in strings do not count."""

    def __init__(self) -> None:
        self.broken = False
        self._at = 0
        self._depth = 0
        self._in_string = False

    def end(self, text: str) -> int | None:
        """The place after the value that `text` begins with, or None while it is incomplete.

        text: all of it so far. `broken` is set when it is nested too deeply.
        """
        while match := _STRUCTURE.search(text, self._at):
            character, self._at = match[0], match.end()
            if character == "\\":
                if self._at == len(text):
                    self._at -= 1  # what it escapes is not there yet
                    return None
                self._at += 1
            elif character == '"':
                self._in_string = not self._in_string
            elif not self._in_string:
                self._depth += 1 if character in "{[" else -1
                self.broken = self.broken or self._depth > MOST_DEPTH
                if self._depth <= 0:
                    return self._at
        self._at = len(text)
        return None


def possible(text: str, markers: Iterable[str]) -> int:
    """Length of the longest end of `text` that one of the markers begins with."""
    longest = 0
    for marker in markers:
        for length in range(min(len(text), len(marker) - 1), longest, -1):
            if text.endswith(marker[:length]):
                longest = length
                break
    return longest


def loads(text: str) -> Any:
    """Strict JSON; None where it is none."""
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        return None


def call_of(value: Any, key: str, needed: bool = False) -> ToolCall | None:
    """A tool call from {"name": …, key: {…}}, or None where it is none.

    key: what its arguments are called; they may be JSON in a string. needed: whether they must be there.
    """
    if not isinstance(value, dict):
        return None
    name, arguments, call_id = value.get("name"), value.get(key, None if needed else {}), value.get("id")
    if isinstance(arguments, str):
        arguments = loads(arguments)
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None
    return ToolCall(name, arguments, call_id if isinstance(call_id, str) else None)


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
