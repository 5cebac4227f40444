"""A program bound to memory: what one step runs.  The model's own, and one for each adapter beside it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels.layout import SMALL
from ..kernels.ops import TOKENS
from ..program import Program
from .memory import aligned_zeros

__all__ = ["MAX_BATCH", "MAX_WANTED", "Plan"]

MAX_BATCH = 512  # tokens in a step: enough to use the matrix kernels fully, few enough to cancel between steps
MAX_WANTED = 64  # tokens of a step whose logits are kept: bounds the logits' memory
FEW = 4096  # logits of a token

Array = NDArray[Any]


def room_wanted(program: Program) -> int:
    """Tokens of a step whose logits are kept: all of them where they are few numbers."""
    head = program.buffers.get("logits")
    return MAX_WANTED if head is None or program.states != "x" or head.columns > FEW else MAX_BATCH


class Plan:
    """A program, its table with addresses in it, and the activations that it names.

    An adapter's plan shares with the model's what both have: weights, activations, angles, and the executor's cache.
    table: int64 [rows, ROW].  at: its address.  step_bytes: of weights that a step of one token reads.  room: tokens of
    a step, at most.  max_wanted: those whose logits are wanted.
    """

    def __init__(
        self, program: Program, kernels: Mapping[str, int], ropes: Mapping[str, Array], threads: int,
        base: "Plan | None" = None, room: int = MAX_BATCH,
    ) -> None:  # fmt: skip
        """`kernels` maps ops to addresses.  `base`: the model's own plan."""
        self.program, self.room, self.max_wanted = program, room, room_wanted(program)
        self.step_bytes = program.step_bytes  # adding them up takes 0.4 ms for 30 layers
        copied = program.copied()
        self.buffers: dict[str, Array] = {}
        for name, buffer in program.buffers.items():
            if buffer.within is None:
                tokens = room if buffer.count == TOKENS else self.max_wanted
                nbytes = buffer.token_bytes * (tokens + (SMALL * threads if name in copied else 0))
                held = base.buffers[name] if base and base.program.buffers.get(name) == buffer else None
                self.buffers[name] = held if held is not None and held.nbytes >= nbytes else aligned_zeros(nbytes)
        self._ropes = ropes
        self._experts: dict[str, NDArray[np.int64]] = {
            name: np.array([weight.data.ctypes.data for weight in program.weights_of(name)], np.int64)
            for name in program.tables
        }
        self.table = program.bind(kernels, self._address)
        self.at = self.table.ctypes.data  # asking for it takes 1.5 us

    def result(self, hidden: bool) -> tuple[str, int]:
        """The activation that has a decoder's hidden states, or its logits, and after how many rows it does."""
        program = self.program
        return (program.states, program.state_rows) if hidden else ("logits", program.logits_rows)

    def view(self, name: str, rows: int) -> Array:
        """The first rows of an activation, without the padding: float32 or int32 [rows, columns]."""
        held = self.program.buffers[name]
        numbers = self.buffers[name].view(np.int32 if held.integers else np.float32)
        return numbers[: rows * held.ld].reshape(rows, held.ld)[:, : held.columns]

    def _address(self, kind: str, name: str) -> int:
        if kind == "a":
            held = self.program.buffers[name]
            return int(self.buffers[held.within.name if held.within else name].ctypes.data) + 4 * held.first
        if kind == "w":
            if name in self._experts:
                return int(self._experts[name].ctypes.data)
            return int(self.program.weights[name].data.ctypes.data)
        return int((self._ropes if name in self._ropes else self.program.params)[name].ctypes.data)
