"""Sequences of answered conversations that stay in the cache, so that the next turn computes its new tokens only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST = 8  # sequences


class KeptSequences:
    """Slots of the engine with the tokens in them, the oldest first.

    Together they hold at most as many positions as one request may have, so they never need more memory than that.

    Args:
        positions: the context.
    """

    def __init__(self, positions: int) -> None:
        self._positions = positions
        self._entries: list[tuple[int, list[int]]] = []

    def take(self, prompt: NDArray[np.int32]) -> tuple[int, list[int]] | None:
        """The slot that spares `prompt` int32 [T] most work, and those of its tokens that the prompt begins with.

        At least one token of the prompt is left over. A slot is taken only if that spares half of the prompt, or half
        of the slot's own tokens: else a short question would cost a long conversation its cache. None if there is none.
        """
        best, most = None, 0
        for index, (_, tokens) in enumerate(self._entries):
            common = shared_length(tokens, prompt[:-1])
            if common > most and 2 * common >= min(len(tokens), prompt.size):
                best, most = index, common
        if best is None:
            return None
        slot, tokens = self._entries.pop(best)
        return slot, tokens[:most]

    def put(self, slot: int, tokens: list[int]) -> list[int]:
        """Keep a slot; -> the slots that are not kept any more."""
        self._entries.append((slot, tokens))
        dropped = []
        while len(self._entries) > MOST or sum(len(held) for _, held in self._entries) > self._positions:
            dropped.append(self._entries.pop(0)[0])
        return dropped


def shared_length(tokens: list[int], prompt: NDArray[np.int32]) -> int:
    """How many tokens both begin with."""
    size = min(len(tokens), prompt.size)
    different = np.flatnonzero(np.array(tokens[:size], np.int32) != prompt[:size])
    return int(different[0]) if different.size else size
