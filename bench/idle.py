"""How much other processes computed meanwhile: engines that spin at their barriers collapse when a core is taken.

A speed-up measured on a busy machine says more about that than about the engines, so every sample is watched.
"""

import os
import time
from pathlib import Path

__all__ = ["LIMIT", "Watch"]

LIMIT = 0.1  # of one core: what a system's own services may take before a sample counts as disturbed


class Watch:
    """Counts the CPU time of the whole system, of this process and of its children that have ended, from now on."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._system = _system_seconds()
        self._ours = _our_seconds()

    def others(self) -> float | None:
        """What other processes used since the watch began, in cores; None where it is not known."""
        system = _system_seconds()
        if self._system is None or system is None:
            return None
        seconds = system - self._system - (_our_seconds() - self._ours)
        return max(0.0, seconds / (time.perf_counter() - self._start))


def _system_seconds() -> float | None:
    """CPU seconds used since boot by everything (Linux only)."""
    try:
        line = Path("/proc/stat").read_text().splitlines()[0]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, *_ = (int(field) for field in line.split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _our_seconds() -> float:
    """CPU seconds that this process and its ended children have used."""
    return sum(os.times()[:4])
