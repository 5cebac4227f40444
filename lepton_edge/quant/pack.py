"""One tensor from one format to another, some rows at a time, on every core."""

import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lepton_edge.checkpoint.store import Weight
from lepton_edge.errors import CheckpointError, RequestError
from lepton_edge.quant.formats import get_format

__all__ = ["map_rows", "pack_weight"]

CHUNK = 1 << 18  # weights: 1 MB as float32; a handful of chunks in flight cost nothing beside a model
MAX_THREADS = 8
ALIGNMENT = 64  # bytes; what a packed file guarantees as well

T = TypeVar("T")


def map_rows(weight: Weight, block_rows: int, work: Callable[[NDArray[np.float32]], T], where: str) -> Iterator[T]:
    """`work(rows)` of float32 [n, K] for chunk after chunk of a matrix [N, K], in order, on several threads.

    n is a multiple of `block_rows`, except at the end. A weight that `work` refuses (RequestError) becomes a
    CheckpointError that names the tensor and `where` it comes from.
    """
    rows, columns = math.prod(weight.shape[:-1]), weight.shape[-1]
    source = get_format(weight.format)
    block = max(block_rows, source.block_rows)
    step = max(CHUNK // max(columns, 1) // block, 1) * block

    def run(start: int) -> T:
        stop = min(start + step, rows)
        data = weight.data[source.nbytes(start, columns) : source.nbytes(stop, columns)]
        return work(source.unpack(data, stop - start, columns))

    threads = min(os.cpu_count() or 1, MAX_THREADS)
    waiting: deque[Future[T]] = deque()
    try:
        with ThreadPoolExecutor(threads) as pool:
            for start in range(0, rows, step):
                if len(waiting) > threads:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(run, start))
            while waiting:
                yield waiting.popleft().result()
    except RequestError as error:
        raise CheckpointError(f"{where}: tensor {weight.name!r}: {error}") from error


def pack_weight(weight: Weight, format: str, where: str) -> Weight:
    """A matrix [N, K] of any format, converted to `format` in memory of its own that starts at a multiple of 64.

    where: the file it comes from, for the CheckpointError raised for weights that are not finite or too large.
    """
    target = get_format(format)
    rows, columns = math.prod(weight.shape[:-1]), weight.shape[-1]
    memory = np.empty(target.nbytes(rows, columns) + ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % ALIGNMENT
    end = first
    for chunk in map_rows(weight, target.block_rows, target.pack, where):
        memory[end : end + chunk.size] = chunk
        end += chunk.size
    return Weight(weight.name, format, weight.shape, memory[first:end])
