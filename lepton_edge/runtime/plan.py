"""A program bound to memory: what one step runs.  The model's own, and one for each adapter beside it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels.layout import SMALL
from ..kernels.ops import TOKENS
from ..program import Buffer, Program
from .memory import aligned_zeros

__all__ = ["MAX_BATCH", "MAX_WANTED", "Plan"]

MAX_BATCH = 512  # tokens in a step: enough to use the matrix kernels fully, few enough to cancel between steps
MAX_WANTED = 64  # tokens of a step whose logits are kept: bounds the logits' memory

Array = NDArray[Any]


class Plan:
    """A program, its table with addresses in it, and the activations that it names.

    An adapter's plan shares with the model's what both have: weights, activations, angles, and the executor's cache.
    table: int64 [rows, ROW].  at: its address.  step_bytes: of weights that a step of one token reads.
    """

    def __init__(
        self, program: Program, kernels: Mapping[str, int], ropes: Mapping[str, Array], threads: int,
        base: "Plan | None" = None,
    ) -> None:  # fmt: skip
        """`kernels` maps ops to addresses.  `base`: the model's own plan."""
        self.program = program
        self.step_bytes = program.step_bytes  # adding them up takes 0.4 ms for 30 layers
        copied = program.copied()
        self.buffers: dict[str, Array] = {}
        for name, buffer in program.buffers.items():
            if buffer.within is None:
                nbytes = _nbytes(buffer, SMALL * threads if name in copied else 0)
                held = base.buffers[name] if base and base.program.buffers.get(name) == buffer else None
                self.buffers[name] = held if held is not None and held.nbytes >= nbytes else aligned_zeros(nbytes)
        self._ropes = ropes
        self._experts: dict[str, NDArray[np.int64]] = {
            name: np.array([weight.data.ctypes.data for weight in program.weights_of(name)], np.int64)
            for name in program.tables
        }
        self.table = program.bind(kernels, self._address)
        self.at = self.table.ctypes.data  # asking for it takes 1.5 us

    def wanted(self, name: str) -> Array:
        """A buffer of the wanted tokens, uint8 [MAX_WANTED, bytes of a token]."""
        return self.buffers[name].reshape(MAX_WANTED, -1)

    def _address(self, kind: str, name: str) -> int:
        if kind == "a":
            held = self.program.buffers[name]
            return int(self.buffers[held.within.name if held.within else name].ctypes.data) + 4 * held.first
        if kind == "w":
            if name in self._experts:
                return int(self._experts[name].ctypes.data)
            return int(self.program.weights[name].data.ctypes.data)
        return int((self._ropes if name in self._ropes else self.program.params)[name].ctypes.data)


def _nbytes(buffer: Buffer, copies: int) -> int:
    return buffer.token_bytes * ((MAX_BATCH if buffer.count == TOKENS else MAX_WANTED) + copies)
