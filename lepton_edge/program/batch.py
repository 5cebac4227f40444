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
    ids, where = _integers("tokens", tokens), _integers("slots", slots)
    at, picks = _integers("positions", positions), _integers("wanted", wanted)
    if not len(ids) == len(where) == len(at):
        raise RequestError(f"{len(ids)} tokens, {len(where)} slots, {len(at)} positions: expected as many of each")
    # Plain loops: for the single token of most steps NumPy's calls would cost five times as much.
    numbers = ids.tolist()
    if numbers and not (min(numbers) >= 0 and max(numbers) < vocab):
        raise RequestError(f"token ids from {min(numbers)} to {max(numbers)}: expected 0 to {vocab - 1}")
    last = -1
    for pick in picks.tolist():
        if not last < pick < len(numbers):
            raise RequestError(f"wanted: expected rising indices from 0 to {len(numbers) - 1}")
        last = pick
    ends: dict[int, int] = {}
    for slot, position in zip(where.tolist(), at.tolist(), strict=True):
        if slot not in lengths:
            raise RequestError(f"sequence {slot} is not open; open are {sorted(lengths)}")
        start = lengths[slot]
        if position != ends.get(slot, start):
            raise RequestError(f"sequence {slot} has {start} positions; expected tokens at {start}, {start + 1}, …")
        ends[slot] = position + 1
    for slot, end in ends.items():
        if end > context:
            raise ContextLengthError(f"sequence {slot} would have {end} tokens; the context has {context}")
    return ids, where, at, picks


def _integers(name: str, values: Ints) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise RequestError(f"{name}: {array.dtype} of shape {list(array.shape)}; expected a list of integers")
    return array.astype(np.int64, copy=False)
