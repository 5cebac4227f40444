"""Whole sequences at once: what an encoder gives of them, or the hidden states of a decoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lepton_edge.errors import RequestError

if TYPE_CHECKING:
    from lepton_edge.generate.shared import SharedEngine
    from lepton_edge.runtime import Engine

__all__ = ["encode_all", "hidden_states", "packs"]

Ids = NDArray[np.int32]
PACK = 64  # sequences in a step, at most: others are to have their turn


def encode_all(
    shared: SharedEngine, sequences: Sequence[Ids], segments: Sequence[NDArray[np.int64]] | None, hidden: bool
) -> list[NDArray[np.float32]]:
    """One array for each sequence, as `Engine.encode` gives them; steps of other requests may come between.

    Raises:
        RequestError, ContextLengthError: as of `Engine.encode`.
        Cancelled: `cancel` was called.
    """
    if segments is not None and len(segments) != len(sequences):
        raise RequestError(f"segments are of {len(segments)} sequences; expected {len(sequences)}")
    found: list[NDArray[np.float32]] = []
    with closing(shared.begin(adapter=None)) as turn:
        for start, stop in packs([len(ids) for ids in sequences], shared.engine.max_batch):
            kinds = None if segments is None else segments[start:stop]
            pack = sequences[start:stop]
            found += shared.step(turn, partial(_encode, pack, kinds, hidden))
    return found


def _encode(
    pack: Sequence[Ids], kinds: Sequence[NDArray[np.int64]] | None, hidden: bool, engine: Engine
) -> list[NDArray[np.float32]]:
    return engine.encode(pack, kinds, hidden)


def hidden_states(shared: SharedEngine, ids: Ids) -> NDArray[np.float32]:
    """A decoder's hidden states of ids int32 [T], as its head reads them: float32 [T, H]."""
    size, parts = shared.engine.max_wanted, []
    with closing(shared.begin()) as sequence:
        sequence.open()
        for start in range(0, len(ids), size):
            part = ids[start : start + size]
            parts.append(sequence.feed(part, np.arange(len(part), dtype=np.int32), hidden=True))
    return np.concatenate(parts)


def packs(lengths: list[int], most: int) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of neighbours that have at most so many tokens together; a longer one is alone."""
    start = total = 0
    for i, length in enumerate(lengths):
        if i > start and (total + length > most or i - start == PACK):
            yield start, i
            start, total = i, 0
        total += length
    if lengths:
        yield start, len(lengths)
