"""Text one token at a time: a pipeline that computes what the tokenizer's own decoder computes for all tokens at once.

A decoder is a chain of steps over the list of token strings. Each step here takes one string at a time and gives back
what later tokens cannot change any more, so the cost of a token does not grow with the text before it.
Once the strings have been joined ("fused"), the steps after that see pieces of one string instead of whole tokens.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Protocol

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Stage:
    """One step of a decoder: `push` gives the finished strings, `flush` what is still held when the text ends."""

    def push(self, piece: str) -> list[str]:
        """Take the next string, return the strings that are finished by it."""
        raise NotImplementedError

    def flush(self) -> list[str]:
        """End the text: return what was held back."""
        return []

    def settle(self) -> list[str]:
        """Let go of whole characters that are held back, and return them; the beginning of a character stays."""
        return []


class ByteLevel(Stage):
    """Byte-level BPE (GPT-2, Llama 3, Qwen): every character of a token stands for one byte."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, piece: str) -> list[str]:
        table = byte_of_character()
        try:
            data = bytes([table[character] for character in piece])
        except KeyError:  # an added token, kept as plain text
            data = piece.encode()
        return [self._utf8.decode(data)]

    def flush(self) -> list[str]:
        return [self._utf8.decode(b"", final=True)]


class ByteFallback(Stage):
    """Tokens `<0x41>` are bytes (Llama 2, Mistral, Gemma).

    A run of them is text where all of it is UTF-8, else one U+FFFD for each byte: so a run is held until it ends.
    """

    TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2}|\+[0-9A-Fa-f])>")

    def __init__(self) -> None:
        self._run = bytearray()

    def push(self, piece: str) -> list[str]:
        match = self.TOKEN.fullmatch(piece)
        if match is None:
            return [*self.flush(), piece]
        self._run.append(int(match[1], 16))
        return []

    def flush(self) -> list[str]:
        run = bytes(self._run)
        self._run.clear()
        try:
            return [run.decode()] if run else []
        except UnicodeDecodeError:
            return [REPLACEMENT] * len(run)

    def settle(self) -> list[str]:
        utf8 = codecs.getincrementaldecoder("utf-8")()
        try:
            whole = utf8.decode(bytes(self._run))
        except UnicodeDecodeError:
            return self.flush()
        self._run = bytearray(utf8.getstate()[0])
        return [whole] if whole else []


class Metaspace(Stage):
    """A mark stands for a space (T5, XLM-R); in the first token it may stand for nothing."""

    def __init__(self, mark: str, drop_first: bool) -> None:
        self._mark = mark
        self._space = "" if drop_first else " "

    def push(self, piece: str) -> list[str]:
        text = piece.replace(self._mark, self._space)
        self._space = " "
        return [text]


class WordPiece(Stage):
    """Tokens are words, except those that begin with a prefix such as `##` (BERT)."""

    TIDY = (
        (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"),
        (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
    )  # fmt: skip

    def __init__(self, prefix: str, cleanup: bool) -> None:
        self._prefix = prefix
        self._cleanup = cleanup
        self._first = True

    def push(self, piece: str) -> list[str]:
        if not self._first:
            piece = piece[len(self._prefix) :] if piece.startswith(self._prefix) else " " + piece
        self._first = False
        for old, new in self.TIDY if self._cleanup else ():
            piece = piece.replace(old, new)
        return [piece]


class Replace(Stage):
    """One string for another in each token; on joined text only a single character can be looked for."""

    def __init__(self, old: str, new: str) -> None:
        self._old = old
        self._new = new

    def push(self, piece: str) -> list[str]:
        return [piece.replace(self._old, self._new)]


class Strip(Stage):
    """Takes away up to `count` leading characters: of each token, or once from joined text."""

    def __init__(self, character: str, count: int, fused: bool) -> None:
        self._character = character
        self._count = count
        self._left = count
        self._fused = fused

    def push(self, piece: str) -> list[str]:
        if not self._fused:
            self._left = self._count
        while self._left and piece:
            if piece[0] != self._character:
                self._left = 0
                break
            piece = piece[1:]
            self._left -= 1
        return [piece]


class Spaced(Stage):
    """A tokenizer without a decoder: tokens with a space between each two."""

    def __init__(self) -> None:
        self._space = ""

    def push(self, piece: str) -> list[str]:
        text = self._space + piece
        self._space = " "
        return [text]


def stages_of(decoder: dict[str, Any] | None) -> list[Stage] | None:
    """The pipeline for the `decoder` of a tokenizer.json, or None where the text is only known at its end."""
    if decoder is None:
        return [Spaced()]
    stages: list[Stage] = []
    fused = False
    for step in _flat(decoder):
        kind = step.get("type")
        stage: Stage
        if kind == "Fuse":
            fused = True
            continue
        if kind == "Replace" and len(step["pattern"].get("String", "")) == 1:
            stage = Replace(step["pattern"]["String"], step["content"])
        elif kind == "Strip" and step["stop"] == 0:
            stage = Strip(step["content"], step["start"], fused)
        elif fused:
            return None
        elif kind == "ByteLevel":
            stage = ByteLevel()
            fused = True
        elif kind == "ByteFallback":
            stage = ByteFallback()
        elif kind == "Metaspace":
            stage = Metaspace(step["replacement"], step["prepend_scheme"] != "never")
        elif kind == "WordPiece":
            stage = WordPiece(step["prefix"], step["cleanup"])
        else:
            return None
        stages.append(stage)
    return stages


def _flat(decoder: dict[str, Any]) -> Iterable[dict[str, Any]]:
    if decoder.get("type") != "Sequence":
        yield decoder
        return
    for step in decoder["decoders"]:
        yield from _flat(step)


@cache
def byte_of_character() -> dict[str, int]:
    """The stand-ins of byte-level BPE: printable Latin-1 bytes are themselves, the rest follow from U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    return table | {chr(256 + index): byte for index, byte in enumerate(others)}


class Detokenizer(Protocol):
    """What `Tokenizer.stream` returns."""

    def push(self, token_id: int) -> str:
        """The text that is certain with this token; it may be empty, and never ends inside a character."""

    def flush(self) -> str:
        """The text still held back; call it once, at the end."""


class PipelineDetokenizer:
    """Emits text as soon as no later token can change it.

    Args:
        stages: the decoder's steps, first to last.
        string_of: token id to token string; None for a token that has no text.
        prefix: ids before the first one; they shape its text (a leading space, half a character) and give none.
    """

    def __init__(self, stages: list[Stage], string_of: Callable[[int], str | None], prefix: Iterable[int]) -> None:
        self._stages = stages
        self._string_of = string_of
        for token_id in prefix:
            self.push(token_id)
        for index, stage in enumerate(stages):
            self._run(stage.settle(), index + 1)  # later steps have seen what the prefix has already shown

    def push(self, token_id: int) -> str:
        string = self._string_of(token_id)
        return "" if string is None else self._run([string], 0)

    def flush(self) -> str:
        return "".join(self._run(stage.flush(), index + 1) for index, stage in enumerate(self._stages))

    def _run(self, pieces: list[str], start: int) -> str:
        for stage in self._stages[start:]:
            pieces = [done for piece in pieces for done in stage.push(piece)]
        return "".join(pieces)


class StrippedDetokenizer:
    """Another one's text without white space at its ends: what may be the end is held back."""

    def __init__(self, detokenizer: Detokenizer) -> None:
        self._detokenizer = detokenizer
        self._begun = False
        self._held = ""

    def push(self, token_id: int) -> str:
        return self._strip(self._detokenizer.push(token_id))

    def flush(self) -> str:
        return self._strip(self._detokenizer.flush())

    def _strip(self, text: str) -> str:
        text = self._held + (text if self._begun else text.lstrip())
        found = text.rstrip()
        self._begun, self._held = self._begun or bool(found), text[len(found) :]
        return found


class WholeDetokenizer:
    """For decoders whose text can change until the last token: all of it comes with `flush`.

    Args:
        decode: ids to text.
        prefix: ids whose text comes before, and is left out.
    """

    def __init__(self, decode: Callable[[list[int]], str], prefix: Iterable[int]) -> None:
        self._decode = decode
        self._ids = list(prefix)
        self._before = len(decode(self._ids))

    def push(self, token_id: int) -> str:
        self._ids.append(token_id)
        return ""

    def flush(self) -> str:
        return self._decode(self._ids)[self._before :]
