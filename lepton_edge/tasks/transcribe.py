"""Texts to sequences of symbols, such as the sounds of words, by a recurrent encoder-decoder."""

from __future__ import annotations

import reprlib
from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_edge.errors import LeptonError, RequestError
from lepton_edge.generate.ids import token_ids
from lepton_edge.generate.params import whole
from lepton_edge.generate.stream import Piece, pieces
from lepton_edge.generate.transduce import follow, need_target, transduce

if TYPE_CHECKING:
    from lepton_edge.tasks.mixin import Tasks

__all__ = ["stream_transcribe", "transcribe"]


def transcribe(
    model: Tasks, texts: str | Iterable[str], *, max_tokens: int | None = None, errors: str = "raise"
) -> list[Any]:
    """What a model writes for each text: the names of the decoder's tokens, the likeliest one each time.

    One text gives a list of names, several give a list of such lists.  An empty text is one: the model writes what it
    writes for that.

    Args:
        model: a loaded RnnForSeq2Seq model.
        texts: a text, or several.
        max_tokens: so many for each, at most; None: as the model says (max_new_tokens).
        errors: 'raise', or 'return': a text that cannot be read gives {'error': message}, and no other is lost.
    Raises:
        RequestError: an argument or a text is wrong, or the model is of another kind.
        ContextLengthError: a text is longer than the model's context (max_length).
        Cancelled: `cancel` was called.
    """
    if errors not in ("raise", "return"):
        raise RequestError(f"errors is {reprlib.repr(errors)}; expected 'raise' or 'return'")
    most = None if max_tokens is None else whole("max_tokens", max_tokens, 1)
    one = isinstance(texts, str)
    if not one and not isinstance(texts, Iterable):
        raise RequestError(f"texts is {reprlib.repr(texts)}; expected a text, or several")
    ready: dict[int, Any] = {}
    found: list[Any] = []
    for i, text in enumerate([texts] if one else texts):
        found.append(None)
        try:
            ready[i] = _ids(model, "the text" if one else f"text {i}", text)
        except LeptonError as error:
            if errors == "raise":
                raise
            found[i] = {"error": str(error)}
    for i, tokens in zip(ready, transduce(model._shared, list(ready.values()), most), strict=True):
        found[i] = [_name(model, token) for token in tokens]
    return found[0] if one else found  # type: ignore[no-any-return]


def stream_transcribe(model: Tasks, text: str, max_tokens: int | None = None) -> Generator[Piece, None, None]:
    """As `transcribe` of one text: a piece for each name, as soon as it is there; the end token's has no text."""
    target = need_target(model._shared.engine)
    most = target.most if max_tokens is None else whole("max_tokens", max_tokens, 1)
    turn = model._shared.begin(adapter=None)
    tokens = follow(turn, _ids(model, "the text", text), most)
    return pieces(tokens, _Names(model), (), {target.end}, most)


class _Names:
    """A detokenizer that gives names."""

    def __init__(self, model: Tasks) -> None:
        self._model = model

    def push(self, token_id: int) -> str:
        return _name(self._model, token_id)

    def flush(self) -> str:
        return ""


def _ids(model: Tasks, name: str, text: Any) -> np.ndarray[Any, np.dtype[np.int32]]:
    """A text's tokens, special ones included."""
    if not isinstance(text, str):
        raise RequestError(f"{name} is {reprlib.repr(text)}; expected a string")
    return token_ids(name, model.tokenizer.encode(text), model.spec.vocab, model.spec.context)


def _name(model: Tasks, token: int) -> str:
    """What a token of the decoder is called."""
    assert model.spec.target is not None, "transduce has looked"
    labels = model.spec.target.labels
    return labels[token] if labels else model.tokenizer.token(token)
