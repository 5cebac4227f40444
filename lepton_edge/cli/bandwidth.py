"""How fast this machine's memory can be read: the limit of decoding, where every token reads every weight once."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

SIZE = 256 << 20  # bytes; more than any cache holds
PASSES = 5


def read_bandwidth(threads: int) -> float:
    """Bytes a second that `threads` threads read together from memory: the best of a few passes over 256 MiB.

    NumPy's maximum of int64 takes several registers at a time and releases the GIL, so memory is what limits it.
    """
    parts = np.array_split(np.ones(SIZE // 8, np.int64), threads)
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(PASSES):
            started = time.perf_counter()
            for _ in pool.map(np.max, parts):
                pass
            best = min(best, time.perf_counter() - started)
    return SIZE / best
