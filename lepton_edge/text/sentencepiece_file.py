"""A SentencePiece `tokenizer.model`: the few fields of its protobuf that decide about ids.

The file is a message `ModelProto` (sentencepiece_model.proto): pieces (1), trainer_spec (2), normalizer_spec (3).
A message is a row of fields: a varint with the field's number and wire type, then a varint (0), eight bytes (1), bytes
with their length before them (2) or four bytes (5) (protobuf encoding guide, "Message structure").
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Any

from lepton_edge.checkpoint.strict_json import brief
from lepton_edge.errors import TokenizerError
from lepton_edge.text.package import read_bytes

MAX_PIECE = 1000  # characters; SentencePiece trains up to 16 unless told otherwise
VARINT, EIGHT, BYTES, FOUR = 0, 1, 2, 5
UNIGRAM, BPE = 1, 2


class Type(IntEnum):
    """What a piece is."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Piece:
    """A token: its string, its score (a log-probability; in BPE the larger is joined first), its type."""

    string: str = ""
    score: float = 0.0
    type: Type = Type.NORMAL


@dataclass(frozen=True)
class SentencePieceModel:
    """What a tokenizer.model says; the defaults are protobuf's.

    Attributes:
        pieces: the tokens by id.
        bpe: byte-pair merges, else unigram.
        byte_fallback: what has no piece is spelled in bytes.
        bos, eos: the pieces' strings.
        charsmap: what characters are replaced with, in SentencePiece's binary form; empty for nothing.
        add_prefix: a space comes before each text.
        collapse: spaces at both ends go, and of several inside one stays.
    """

    pieces: tuple[Piece, ...] = ()
    bpe: bool = False
    byte_fallback: bool = False
    bos: str = "<s>"
    eos: str = "</s>"
    charsmap: bytes = b""
    add_prefix: bool = True
    collapse: bool = True

    def check(self, path: Path) -> None:
        """Raises TokenizerError where the pieces do not make a vocabulary."""
        unknown = [token_id for token_id, piece in enumerate(self.pieces) if piece.type is Type.UNKNOWN]
        if len(unknown) != 1:
            raise TokenizerError(f"{path}: has {len(unknown)} pieces for unknown characters; expected one")
        spelled = [piece.string for piece in self.pieces if piece.type is Type.BYTE]
        expected = [f"<0x{byte:02X}>" for byte in range(256)] if self.byte_fallback else []
        if sorted(spelled) != expected:
            raise TokenizerError(
                f"{path}: has {len(spelled)} pieces for bytes; expected {len(expected)}, one each; copy the file again"
            )
        for token_id, piece in enumerate(self.pieces):
            if not piece.string or len(piece.string) > MAX_PIECE or not math.isfinite(piece.score):
                raise TokenizerError(
                    f"{path}: piece {token_id} is {brief(piece.string)} with the score {piece.score}; expected 1 to "
                    f"{MAX_PIECE} characters and a finite score; copy the file again"
                )
            if piece.type is Type.UNUSED:
                raise TokenizerError(f"{path}: piece {token_id} is of the type 'unused', which is not supported")


def read_model(path: Path) -> SentencePieceModel:
    """Read and check a tokenizer.model.

    Raises:
        TokenizerError: it is damaged, or uses what is not supported.
    """
    raw = read_bytes(path)
    try:
        model = _model(raw, path)
    except (ValueError, struct.error) as error:  # UnicodeDecodeError is a ValueError
        raise TokenizerError(
            f"{path}: is no SentencePiece model ({error}); expected one, whole; copy the file again"
        ) from None
    model.check(path)
    return model


def fields(raw: bytes) -> Iterator[tuple[int, int, Any]]:
    """The fields of a message: number, wire type, and an int or bytes. Raises ValueError where it ends too early."""
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        number, wire = key >> 3, key & 7
        value: int | bytes
        if wire == VARINT:
            value, at = _varint(raw, at)
        elif wire in (BYTES, EIGHT, FOUR):
            length, at = _varint(raw, at) if wire == BYTES else ((8 if wire == EIGHT else 4), at)
            if length > len(raw) - at:
                raise ValueError(f"field {number} has {length} bytes, but {len(raw) - at} are left")
            value, at = raw[at : at + length], at + length
        else:
            raise ValueError(f"field {number} has the wire type {wire}")
        yield number, wire, value


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """Seven bits a byte, the lowest first, and where the next field begins; at most ten bytes."""
    value = 0
    for index in range(10):
        if at + index >= len(raw):
            raise ValueError("a number is cut off")
        byte = raw[at + index]
        value |= (byte & 127) << 7 * index
        if byte < 128:
            return value & (1 << 64) - 1, at + index + 1
    raise ValueError(f"a number of more than ten bytes at byte {at}")


def _model(raw: bytes, path: Path) -> SentencePieceModel:
    pieces: list[Piece] = []
    model = SentencePieceModel()
    for number, wire, value in fields(raw):
        if number in (1, 2, 3) and wire != BYTES:
            raise ValueError(f"field {number} has the wire type {wire}")
        if number == 1:
            pieces.append(_piece(value))
        elif number == 2:
            model = _trainer(model, value, path)
        elif number == 3:
            model = _normalizer(model, value, path)
    return replace(model, pieces=tuple(pieces))


def _known(raw: bytes, wires: dict[int, int]) -> dict[int, Any]:
    """The fields that `wires` names, checked to have those wire types; of one that is there twice, the last."""
    found: dict[int, Any] = {}
    for number, wire, value in fields(raw):
        if number in wires:
            if wire != wires[number]:
                raise ValueError(f"field {number} has the wire type {wire}")
            found[number] = value
    return found


def _piece(raw: bytes) -> Piece:
    found = _known(raw, {1: BYTES, 2: FOUR, 3: VARINT})
    score = struct.unpack("<f", found[2])[0] if 2 in found else 0.0
    return Piece(found.get(1, b"").decode("utf-8"), score, Type(found.get(3, Type.NORMAL)))


def _trainer(model: SentencePieceModel, raw: bytes, path: Path) -> SentencePieceModel:
    found = _known(raw, {3: VARINT, 24: VARINT, 35: VARINT, 46: BYTES, 47: BYTES})
    kind = found.get(3, BPE if model.bpe else UNIGRAM)
    if kind not in (UNIGRAM, BPE):
        raise TokenizerError(f"{path}: is of the model type {kind}; expected 1 (unigram) or 2 (BPE)")
    if found.get(24):
        raise TokenizerError(f"{path}: treat_whitespace_as_suffix is set, which is not supported")
    return replace(
        model,
        bpe=kind == BPE,
        byte_fallback=bool(found.get(35, model.byte_fallback)),
        bos=found.get(46, model.bos.encode()).decode("utf-8"),
        eos=found.get(47, model.eos.encode()).decode("utf-8"),
    )


def _normalizer(model: SentencePieceModel, raw: bytes, path: Path) -> SentencePieceModel:
    found = _known(raw, {2: BYTES, 3: VARINT, 4: VARINT, 5: VARINT})
    if not found.get(5, True):
        raise TokenizerError(f"{path}: escape_whitespaces is off, which is not supported")
    return replace(
        model,
        charsmap=found.get(2, model.charsmap),
        add_prefix=bool(found.get(3, model.add_prefix)),
        collapse=bool(found.get(4, model.collapse)),
    )
