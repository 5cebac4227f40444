"""Lists of token ids, checked."""

from __future__ import annotations

import operator
import reprlib
from collections.abc import Iterable
from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray

from lepton_edge.errors import ContextLengthError, RequestError

__all__ = ["numbers", "token_ids"]


def token_ids(name: str, ids: Iterable[SupportsIndex], vocab: int, context: int) -> NDArray[np.int32]:
    """Token ids as int32 [T], at least one, checked against the vocabulary and the context.

    Raises RequestError or ContextLengthError, which call the list `name`.
    """
    if isinstance(ids, str):
        raise RequestError(f"{name} is text; expected token ids: use model.tokenizer.encode(text)")
    found = numbers(name, ids)
    if not found.size:
        raise RequestError(f"{name} has no tokens; expected at least one")
    wrong = found[(found < 0) | (found >= vocab)]
    if wrong.size:
        raise RequestError(f"{name} has token id {wrong[0]}; this model knows 0 to {vocab - 1}")
    if found.size > context:
        raise ContextLengthError(
            f"{name} has {found.size} tokens, but the context holds {context}; shorten it, or load the model with a "
            "larger context"
        )
    return found.astype(np.int32)


def numbers(name: str, values: Iterable[SupportsIndex]) -> NDArray[np.int64]:
    """Whole numbers as int64 [T].  RequestError, which calls the list `name`."""
    try:
        return np.array([operator.index(value) for value in values], np.int64)
    except (TypeError, OverflowError):
        raise RequestError(f"{name} is {reprlib.repr(values)}; expected text or a list of token ids") from None
