"""A checkpoint of random weights, made in memory: what benchmarks run on when no file is at hand."""

import math
import zlib
from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from lepton_edge.checkpoint.store import Weight
from lepton_edge.errors import CheckpointError
from lepton_edge.quant.formats import Format, get_format

__all__ = ["RandomCheckpoint"]

DISTINCT_ROWS = 64  # the rows of a matrix repeat after that many; packing more would only take time
BLOCK_ROWS = 16  # that a packed format keeps together
ALIGNMENT = 64  # bytes; what a packed file guarantees as well


class RandomCheckpoint:
    """Stands in for a `Checkpoint`: the same weights for the same shapes, format and seed.

    Matrices [N, K], or many of them one behind the other, are normal with standard deviation 1/sqrt(K) and stored as
    `format`, other tensors as f32; vectors are ones (norms) or, when their name ends in 'bias', zeros. Every tensor has
    memory of its own, as in a file; those of one width have the same rows, and begin with another block: a model of
    experts has thousands, which took 15 s to draw.
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
        self._drawn: dict[tuple[str, int, int], NDArray[np.uint8]] = {}

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
        few = self._rows(format, min(rows, DISTINCT_ROWS), columns)
        # crc32, not hash(): Python salts that one anew in every process.
        first = zlib.crc32(name.encode()) % (DISTINCT_ROWS // BLOCK_ROWS) if rows >= DISTINCT_ROWS else 0
        data = _repeat(np.roll(few, first * format.nbytes(BLOCK_ROWS, columns)), format.nbytes(rows, columns))
        return Weight(name, format.name, shape, data)

    def _rows(self, format: Format, rows: int, columns: int) -> NDArray[np.uint8]:
        """Random rows as `format` has them."""
        key = (format.name, rows, columns)
        if key not in self._drawn:
            rng = np.random.default_rng((self._seed, rows, columns))
            values = rng.standard_normal((rows, columns), np.float32) / np.float32(np.sqrt(columns))
            self._drawn[key] = format.pack(values)
        return self._drawn[key]

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
