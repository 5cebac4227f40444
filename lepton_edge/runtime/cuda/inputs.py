"""What a step is told of its tokens, packed into one piece that goes to the device at once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...kernels.cuda import layout
from ...kernels.layout import ENDS, IDS, MEMORY_ENDS, MEMORY_SLOTS, PAGE, PICKS, POSITIONS, SEGMENTS, SLOTS
from ..inputs import Inputs
from .device import Device
from .memory import Block

__all__ = ["Packed"]

LISTS = {layout.IDS: IDS, layout.POSITIONS: POSITIONS, layout.SEGMENTS: SEGMENTS, layout.ENDS: ENDS,
         layout.MEMORY_ENDS: MEMORY_ENDS}  # fmt: skip


class Packed(Inputs):
    """Inputs that are packed for the device: a header (`kernels/cuda/layout.py`), and the lists that it points at."""

    def __init__(self, device: Device, room: int, query_tile: int, partials: int) -> None:
        """partials: the address of attention's parts."""
        super().__init__(room, query_tile)
        self._device, self._partials = device, partials
        self._reserve(1 << 16)

    def _reserve(self, words: int) -> None:
        """See to it that there is memory for so many int64."""
        self._block = Block(self._device, 8 * words)
        self._staged = self._device.pin(8 * words).view(np.int64)

    def free(self) -> None:
        """Give the device's memory back."""
        self._block.free()

    @property
    def header(self) -> int:
        """Where it lies on the device."""
        return self._block.at

    def last_positions(self, tokens: int) -> dict[int, int]:
        """The last position of each sequence of the step."""
        slots = self._lists[SLOTS][:tokens].tolist()
        return dict(zip(slots, self._lists[POSITIONS][:tokens].tolist(), strict=True))

    def upload(self, counts: Sequence[int], heats: NDArray[np.float32], pages: NDArray[np.int64],
               whole: bool) -> None:  # fmt: skip
        """Send a step's lists.  counts: tokens, wanted, tiles; pages: the table of `Pages`; whole: whether it matters
        where sequences end, or they have memories."""
        tokens, wanted, tiles = counts
        slots = self._lists[SLOTS][:tokens].tolist()
        held = [(slot, pages[slot, : end // PAGE + 1]) for slot, end in self.last_positions(tokens).items()]
        memories: dict[int, Any] = {}
        if whole:
            last = self._lists[MEMORY_ENDS][:tokens].tolist()
            for slot, end in zip(self._lists[MEMORY_SLOTS][:tokens].tolist(), last, strict=True):
                memories[slot] = pages[slot, : end // PAGE + 1]
        lists = (5 if whole else 2) * tokens + 2 * tokens
        need = layout.HEADER // 8 + lists + 2 * wanted + 2 * tiles + sum(len(own) for _, own in held)
        need += sum(len(own) for own in memories.values())
        if need > len(self._staged):
            self._reserve(2 * need)
        staged, base, place = self._staged, self._block.at, layout.HEADER // 8

        def put(values: Any, field: int | None = None) -> int:
            nonlocal place
            at, place = base + 8 * place, place + len(values)
            staged[place - len(values) : place] = values
            if field is not None:
                staged[field // 8] = at
            return at

        staged[layout.PARTIALS // 8] = self._partials
        for field, name in LISTS.items() if whole else list(LISTS.items())[:2]:
            put(self._lists[name][:tokens], field)
        put(self._lists[PICKS][:wanted], layout.PICKS)
        put(heats[: wanted + wanted % 2].view(np.int64), layout.HEATS)
        put(self._tiles[:tiles].reshape(-1), layout.TILES)
        places = {slot: put(own) for slot, own in held}
        put([places[slot] for slot in slots], layout.PAGES)
        if whole:
            places = {slot: put(own) for slot, own in memories.items()}
            put([places[slot] for slot in self._lists[MEMORY_SLOTS][:tokens].tolist()], layout.MEMORY_PAGES)
        self._device.upload(base, staged[:place])
