"""The recurrent states of sequences: memory of one size for each slot, whatever its length."""

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from .memory import aligned_zeros

__all__ = ["States"]


class States:
    """Which memory holds the state of which slot.

    table: int64 [slots], addresses.  A slot gets its memory with its first step and gives it back when it is closed.
    Nothing is zeroed here: kernels begin a sequence, at position 0, with zeros.
    """

    def __init__(self, nbytes: int, slots: int) -> None:
        """`nbytes`: of one state; 0 for a model that has none."""
        self._size = nbytes
        self.table: NDArray[np.int64] = np.zeros(slots, np.int64)
        self._held: dict[int, NDArray[np.uint8]] = {}
        self._spare: list[NDArray[np.uint8]] = []

    def reserve(self, slot: int) -> None:
        """See to it that a slot has memory."""
        if self._size and slot not in self._held:
            state = self._spare.pop() if self._spare else aligned_zeros(self._size)
            self._held[slot] = state
            self.table[slot] = state.ctypes.data

    def read(self, slot: int) -> NDArray[np.uint8]:
        """A copy of a slot's state; of no bytes for a model that has none."""
        return self._held[slot].copy() if self._size else np.empty(0, np.uint8)

    def write(self, slot: int, state: NDArray[np.uint8]) -> None:
        """Begin a slot with a state that another model has left.  RequestError for one of another size."""
        if state.dtype != np.uint8 or state.shape != (self._size,):
            raise RequestError(f"a state is {state.dtype} {list(state.shape)}; expected uint8 [{self._size}]")
        self.reserve(slot)
        if self._size:
            self._held[slot][:] = state

    def close(self, slot: int) -> None:
        """Keep a slot's memory for the next one that needs some."""
        if slot in self._held:
            self._spare.append(self._held.pop(slot))

    @property
    def nbytes(self) -> int:
        """Bytes of all states, spare ones included."""
        return (len(self._held) + len(self._spare)) * self._size
