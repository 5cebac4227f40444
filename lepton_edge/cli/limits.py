"""What this machine can do at most, measured: the limits that kernels are held against."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

import numpy as np

from lepton_edge.kernels.layout import GROUP, PROBE_BYTES
from lepton_edge.kernels.library import callable_kernel, kernels
from lepton_edge.kernels.machine import instruction_set
from lepton_edge.kernels.ops import PROBES

__all__ = ["Limits", "Probes", "best", "limits"]

SIZE = 256 << 20  # bytes that are read; more than any cache holds
INT8, F32 = 2e9, 5e8  # operations of each thread in a sample: some milliseconds
SAMPLES = 20


@dataclass(frozen=True)
class Limits:
    """Of some threads together: bytes read from memory, and operations on int8 and on f32, each in a second.

    A multiplication and an addition are two operations.  int8: group products as the packed kernels do them.
    """

    read: float
    int8: float
    f32: float


class Probes:
    """The probes of one instruction set on `threads` threads, each reading its own part of 256 MiB."""

    def __init__(self, isa: str, threads: int, notify: Callable[[str], None] | None = None) -> None:
        found = kernels(PROBES, isa, notify)
        self._read, self._dot, self._fma = (callable_kernel(address) for address in found.values())
        self._threads, self._chains = threads, instruction_set(isa).chains
        self._operands = np.zeros((threads, PROBE_BYTES), np.uint8)
        self._memory = np.ones((threads, SIZE // threads // 256 * 256), np.uint8)
        self._pool = ThreadPoolExecutor(threads)

    def sample(self) -> Limits:
        """One measurement of each limit; takes some 30 ms."""
        share, lanes = self._memory.shape[1], self._chains * 16
        return Limits(
            self._rate(lambda i: self._read(self._operand(i), share, self._memory[i].ctypes.data), share),
            self._compute(self._dot, INT8, 2 * lanes * GROUP),
            self._compute(self._fma, F32, 2 * lanes),
        )

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown()

    def _operand(self, thread: int) -> int:
        return self._operands[thread].ctypes.data

    def _compute(self, probe: Callable[[int, int, int], None], operations: float, turn: int) -> float:
        turns = int(operations) // turn
        return self._rate(lambda i: probe(self._operand(i), turns, 0), turns * turn)

    def _rate(self, work: Callable[[int], None], each: int) -> float:
        """`each` of every thread, in a second."""
        started = time.perf_counter()
        list(self._pool.map(work, range(self._threads)))
        return each * self._threads / (time.perf_counter() - started)


def limits(isa: str, threads: int, notify: Callable[[str], None] | None = None) -> Limits:
    """The best of some samples of each limit: what disturbs a sample only lowers it.  Takes half a second."""
    probes = Probes(isa, threads, notify)
    try:
        samples = [probes.sample() for _ in range(SAMPLES)]
    finally:
        probes.close()
    return best(samples)


def best(samples: Sequence[Limits]) -> Limits:
    """The best of each limit."""
    return Limits(*(max(getattr(sample, field.name) for sample in samples) for field in fields(Limits)))
