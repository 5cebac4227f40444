"""Memory of a GPU that is given back with its owner."""

import weakref
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from .device import Device

__all__ = ["Block", "Constants"]

ALIGNMENT = 256


class Block:
    """Zeroed device memory at `at`, freed with this object."""

    def __init__(self, device: Device, nbytes: int) -> None:
        self.nbytes, self.at = nbytes, device.allocate(nbytes)
        self.free = weakref.finalize(self, device.free, self.at)


class Constants:
    """Arrays of the host on the device, each once, whatever it is called."""

    def __init__(self, device: Device, base: "Constants | None" = None) -> None:
        """base: what it has is not uploaded again."""
        self._device, self._base = device, base
        self._places: dict[tuple[int, int], int] = {}
        self._blocks: list[Block] = []
        self._kept: list[NDArray[Any]] = []  # so that an address stays that of the same array

    def add(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, int]:
        """Upload what is not there; -> the addresses of all, by the same names."""
        missing = {_key(array): array for array in arrays.values() if self._find(array) is None}
        starts, total = {}, 0
        for key, array in missing.items():
            starts[key] = total
            total += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        if missing:
            block = Block(self._device, total)
            for key, array in missing.items():
                self._places[key] = block.at + starts[key]
                self._device.upload(block.at + starts[key], array)
            self._device.wait()
            self._blocks.append(block)
            self._kept += missing.values()
        return {name: self._find(array) or 0 for name, array in arrays.items()}

    def _find(self, array: NDArray[Any]) -> int | None:
        found = self._places.get(_key(array))
        return self._base._find(array) if found is None and self._base is not None else found

    def free(self) -> None:
        """Give all memory back."""
        for block in self._blocks:
            block.free()
        self._blocks, self._places, self._kept = [], {}, []

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return sum(block.nbytes for block in self._blocks)


def _key(array: NDArray[Any]) -> tuple[int, int]:
    return array.ctypes.data, array.nbytes


