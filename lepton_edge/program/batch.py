"""A batch of tokens and the check that all executors make of it before they touch any state."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import ContextLengthError, RequestError

__all__ = ["Batch", "Ints", "read_batch"]

Ints = Sequence[int] | NDArray[np.integer]
Batch = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def read_batch(
    tokens: Ints, slots: Ints, positions: Ints, wanted: Ints, *, vocab: int, context: int, lengths: Mapping[int, int]
) -> Batch:
    """The four lists as int64 arrays, checked: tokens, slots, positions [T], wanted [M].

    `lengths` says how many positions each open sequence has.  Each sequence's positions must continue it without a
    gap, and `wanted` must be rising indices into the batch.  Raises RequestError, or ContextLengthError past the
    context.
    """
    named = {"tokens": tokens, "slots": slots, "positions": positions, "wanted": wanted}
    ids, where, at, picks = (_integers(name, values) for name, values in named.items())
    if not len(ids) == len(where) == len(at):
        raise RequestError(f"{len(ids)} tokens, {len(where)} slots, {len(at)} positions: expected as many of each")
    if len(ids) and not (ids.min() >= 0 and ids.max() < vocab):
        raise RequestError(f"token ids from {ids.min()} to {ids.max()}: expected 0 to {vocab - 1}")
    if len(picks) and not (picks[0] >= 0 and picks[-1] < len(ids) and (np.diff(picks) > 0).all()):
        raise RequestError(f"wanted: expected rising indices from 0 to {len(ids) - 1}")
    for slot in sorted(set(where.tolist())):
        if slot not in lengths:
            raise RequestError(f"sequence {slot} is not open; open are {sorted(lengths)}")
        own, start = at[where == slot], lengths[slot]
        if not np.array_equal(own, np.arange(start, start + len(own))):
            raise RequestError(f"sequence {slot} has {start} positions; expected tokens at {start}, {start + 1}, …")
        if start + len(own) > context:
            raise ContextLengthError(f"sequence {slot} would have {start + len(own)} tokens; the context has {context}")
    return ids, where, at, picks


def _integers(name: str, values: Ints) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise RequestError(f"{name}: {array.dtype} of shape {list(array.shape)}; expected a list of integers")
    return array.astype(np.int64, copy=False)
