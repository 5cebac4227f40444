"""Numba's CUDA simulator in the place of a GPU, with NUMBA_ENABLE_CUDASIM=1.  Device memory is the host's."""

import ctypes
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_edge.runtime.cuda.device import Device, Graph, Launch
from lepton_edge.runtime.memory import aligned_zeros


class Simulator(Device):
    """Runs the kernels' plain paths, each thread block as one thread, at once."""

    tensor_cores = False

    def __init__(self) -> None:
        self._held: dict[int, NDArray[np.uint8]] = {}
        self._kernels: dict[str, Any] = {}
        self.arch, self.processors, self.name = "sim", 0, "Numba's CUDA simulator"

    def use(self) -> None:
        pass

    def allocate(self, nbytes: int) -> int:
        memory = aligned_zeros(max(1, nbytes))
        self._held[memory.ctypes.data] = memory
        return memory.ctypes.data

    def free(self, address: int) -> None:
        del self._held[address]

    def pin(self, nbytes: int) -> NDArray[np.uint8]:
        return aligned_zeros(nbytes)

    def zero(self, address: int, nbytes: int) -> None:
        _memory(address, nbytes)[:] = 0

    def upload(self, address: int, data: NDArray[Any]) -> None:
        _memory(address, data.nbytes)[:] = data.reshape(-1).view(np.uint8)

    def download(self, data: NDArray[Any], address: int) -> None:
        data.reshape(-1).view(np.uint8)[:] = _memory(address, data.nbytes)

    def copy(self, target: int, source: int, nbytes: int) -> None:
        _memory(target, nbytes)[:] = _memory(source, nbytes)

    def wait(self) -> None:
        pass

    def load(self, kernels: Iterable[str], notify: Callable[[str], None] | None = None) -> None:
        from numba import cuda

        from lepton_edge.kernels.cuda.build import factories

        known = factories()
        for name in kernels:
            if name not in self._kernels:
                self._kernels[name] = cuda.jit(known[name]())

    def launch(self, launches: Iterable[Launch]) -> None:
        for name, row, header, extra, (x, y, z, _) in launches:
            self._kernels[name][(x, y, z), 1](row, header, extra)

    def record(self, begin: Callable[[], None]) -> Graph:
        return Graph(begin, lambda: None)


def _memory(address: int, nbytes: int) -> NDArray[np.uint8]:
    return np.ctypeslib.as_array((ctypes.c_uint8 * max(1, nbytes)).from_address(address))[:nbytes]
