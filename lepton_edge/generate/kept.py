"""Sequences of answered conversations that stay in the cache, so that the next turn computes its new tokens only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from lepton_edge.runtime import Plan

MOST = 8  # sequences


class KeptSequences:
    """Slots of the engine with the tokens in them and the plan of the adapter they were run with, the oldest first.

    Together they hold at most as many positions as one request may have, so they never need more memory than that.

    Args:
        positions: the context.
    """

    def __init__(self, positions: int) -> None:
        self._positions = positions
        self._entries: list[tuple[int, list[int], Plan | None]] = []

    def take(self, prompt: NDArray[np.int32], plan: Plan | None = None) -> tuple[int, list[int]] | None:
        """The slot that spares `prompt` int32 [T] most work, and those of its tokens that the prompt begins with.

        At least one token of the prompt is left over. A slot is taken only if that spares half of the prompt, or half
        of the slot's own tokens: else a short question would cost a long conversation its cache. None if there is none.
        """
        best, most = None, 0
        for index, (_, tokens, held) in enumerate(self._entries):
            common = shared_length(tokens, prompt[:-1]) if held is plan else 0
            if common > most and 2 * common >= min(len(tokens), prompt.size):
                best, most = index, common
        if best is None:
            return None
        slot, tokens, _ = self._entries.pop(best)
        return slot, tokens[:most]

    def put(self, slot: int, tokens: list[int], plan: Plan | None = None) -> list[int]:
        """Keep a slot; -> the slots that are not kept any more."""
        self._entries.append((slot, tokens, plan))
        dropped = []
        while len(self._entries) > MOST or sum(len(held) for _, held, _ in self._entries) > self._positions:
            dropped.append(self._entries.pop(0)[0])
        return dropped

    def drop(self, plan: Plan) -> list[int]:
        """Forget what was run with an adapter; -> the slots that are not kept any more."""
        dropped = [slot for slot, _, held in self._entries if held is plan]
        self._entries = [entry for entry in self._entries if entry[2] is not plan]
        return dropped


def shared_length(tokens: list[int], prompt: NDArray[np.int32]) -> int:
    """How many tokens both begin with."""
    size = min(len(tokens), prompt.size)
    different = np.flatnonzero(np.array(tokens[:size], np.int32) != prompt[:size])
    return int(different[0]) if different.size else size
