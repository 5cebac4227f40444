"""What a step is told of its tokens: the lists that the kernels' context points at."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from ..kernels.layout import (
    ENDS,
    FIRSTS,
    IDS,
    MEMORY_ENDS,
    MEMORY_SLOTS,
    NEXT,
    PICKS,
    POSITIONS,
    SEGMENTS,
    SLOTS,
    TILES,
)
from ..program.batch import Ints

__all__ = ["Inputs", "read_segments"]

Array = NDArray[np.int64]
LISTS = (IDS, POSITIONS, SLOTS, PICKS, FIRSTS, NEXT, SEGMENTS, ENDS, MEMORY_SLOTS, MEMORY_ENDS)


class Inputs:
    """Lists of `room` numbers each, and attention's tiles of neighbours of one sequence."""

    def __init__(self, room: int, query_tile: int) -> None:
        """query_tile: tokens of a tile, at most."""
        self.room, self._query_tile = room, query_tile
        self._lists: dict[int, Array] = {at: np.zeros(room, np.int64) for at in LISTS}
        self._tiles: Array = np.zeros((room, 2), np.int64)

    def addresses(self) -> dict[int, int]:
        """Where the lists lie, by the context's fields."""
        return {at: held.ctypes.data for at, held in self._lists.items()} | {TILES: self._tiles.ctypes.data}

    def write(self, ids: Array, slots: Array, positions: Array, ends: Mapping[int, int] | None) -> None:
        """The tokens of a step, and where their sequences end, if it matters to them."""
        for at, values in ((IDS, ids), (SLOTS, slots), (POSITIONS, positions)):
            self._lists[at][: len(values)] = values
        if ends is not None:
            self._lists[ENDS][: len(slots)] = [ends[slot] - 1 for slot in slots.tolist()]

    def pick(self, picks: Array) -> None:
        """Which of the tokens are wanted."""
        self._lists[PICKS][: len(picks)] = picks

    def segment(self, segments: Array) -> None:
        """The tokens' segments."""
        self._lists[SEGMENTS][: len(segments)] = segments

    def attend(self, memories: list[int], ends: list[int]) -> None:
        """The memory of each token's sequence, and how many positions that has."""
        self._lists[MEMORY_SLOTS][: len(memories)] = memories
        self._lists[MEMORY_ENDS][: len(ends)] = np.array(ends, np.int64) - 1

    def cut_tiles(self, slots: list[int]) -> int:
        """Cut the batch into tiles of neighbours of one sequence, for the attention; -> how many."""
        count = start = 0
        for stop in range(1, len(slots) + 1):
            if stop == len(slots) or slots[stop] != slots[start] or stop - start == self._query_tile:
                self._tiles[count] = start, stop - start
                count, start = count + 1, stop
        return count

    def link(self, slots: list[int]) -> None:
        """Say which token is the first of each sequence, and which follows each token in its sequence."""
        last: dict[int, int] = {}
        firsts, following = self._lists[FIRSTS], self._lists[NEXT]
        following[: len(slots)] = -1
        for t, slot in enumerate(slots):
            if slot in last:
                following[last[slot]] = t
            else:
                firsts[len(last)] = t
            last[slot] = t


def read_segments(segments: Sequence[Ints] | None, lengths: list[int], count: int) -> Array:
    """The segments of all tokens, below `count`, checked; zeros where there are none."""
    if segments is None:
        return np.zeros(sum(lengths), np.int64)
    if [len(row) for row in segments] != lengths:
        raise RequestError("segments: expected one number for each token of each sequence")
    found = np.concatenate([np.asarray(row) for row in segments])
    if found.dtype.kind not in "iu" or found.min() < 0 or found.max() >= count:
        raise RequestError(f"segments: expected whole numbers from 0 to {count - 1}")
    return found.astype(np.int64)
