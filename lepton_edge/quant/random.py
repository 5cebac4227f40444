"""A checkpoint of random weights, made in memory: what benchmarks run on when no file is at hand."""

import math
import zlib
from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from lepton_edge.checkpoint.store import Weight
from lepton_edge.errors import CheckpointError
from lepton_edge.quant.formats import get_format

__all__ = ["RandomCheckpoint"]

DISTINCT_ROWS = 64  # the rows of a matrix repeat after that many; packing more would only take time
ALIGNMENT = 64  # bytes; what a packed file guarantees as well


class RandomCheckpoint:
    """Stands in for a `Checkpoint`: the same weights for the same shapes, format and seed.

    Matrices [N, K], or many of them one behind the other, are normal with standard deviation 1/sqrt(K) and stored as
    `format`, other tensors as f32; vectors are ones (norms) or, when their name ends in 'bias', zeros. Every tensor has
    memory of its own, as in a file.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], format: str, seed: int = 0,
                 matrices: Collection[str] | None = None) -> None:  # fmt: skip
        """Takes every tensor's name and shape; matrices: which of them are such, None for all but vectors.

        RequestError for an unknown format.
        """
        self._shapes = dict(shapes)
        self._matrices = matrices if matrices is not None else {n for n, shape in shapes.items() if len(shape) > 1}
        self._format = get_format(format)
        self._seed = seed

    def weight(self, name: str) -> Weight:
        """The tensor `name`, made anew on each call."""
        if name not in self._shapes:
            raise CheckpointError(f"random weights: no tensor {name!r}; expected one of the {len(self._shapes)} shapes")
        shape = self._shapes[name]
        if len(shape) == 1:
            values = np.full(shape, 0.0 if name.endswith("bias") else 1.0, np.float32)
            return Weight(name, "f32", shape, values.view(np.uint8))
        format = self._format if name in self._matrices else get_format("f32")
        rows, columns = math.prod(shape[:-1]), shape[-1]
        # crc32, not hash(): Python salts that one anew in every process.
        rng = np.random.default_rng((self._seed, zlib.crc32(name.encode())))
        few = rng.standard_normal((min(rows, DISTINCT_ROWS), columns), np.float32) / np.float32(np.sqrt(columns))
        data = _repeat(format.pack(few), format.nbytes(rows, columns))
        return Weight(name, format.name, shape, data)

    def require(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """CheckpointError unless exactly these shapes were asked for."""
        wrong = [name for name, shape in expected.items() if self._shapes.get(name) != tuple(shape)]
        if wrong:
            raise CheckpointError(f"random weights: missing or of another shape: {', '.join(wrong)}")

    def check_unchanged(self) -> None:
        """Nothing can change behind these weights."""


def _repeat(block: NDArray[np.uint8], total: int) -> NDArray[np.uint8]:
    """uint8 [total], aligned, filled with `block` over and over; total and len(block) are whole row blocks."""
    memory = np.empty(total + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    out = memory[start : start + total]
    whole = total // len(block) * len(block)
    out[:whole].reshape(-1, len(block))[:] = block
    out[whole:] = block[: total - whole]
    return out
