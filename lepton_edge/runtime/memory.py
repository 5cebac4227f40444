"""Memory whose address a kernel may be given."""

import numpy as np
from numpy.typing import NDArray

from ..errors import MachineError

__all__ = ["aligned_zeros"]

ALIGNMENT = 128  # two cache lines: what one thread writes does not disturb its neighbour


def aligned_zeros(nbytes: int) -> NDArray[np.uint8]:
    """Zeroed bytes at an aligned address.  The operating system gives real memory only for pages that are touched."""
    try:
        raw = np.zeros(nbytes + ALIGNMENT, np.uint8)
    except MemoryError:
        raise MachineError(f"out of memory: {nbytes / 1e6:.0f} MB are not to be had; use a smaller context") from None
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + nbytes]
