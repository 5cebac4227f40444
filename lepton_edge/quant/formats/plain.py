"""f32, f16, bf16: row-major numbers, exactly as a safetensors file holds them."""

import numpy as np
from numpy.typing import NDArray

from lepton_edge.quant.formats.base import Format

__all__ = ["BF16", "F16", "F32"]


class F32(Format):
    """IEEE single precision."""

    name, packed, dtype, bits, block_rows = "f32", False, "F32", 32.0, 1

    def nbytes(self, rows: int, columns: int) -> int:
        return rows * columns * 4

    def _pack(self, w: NDArray[np.float32]) -> NDArray[np.uint8]:
        if not np.isfinite(w).all():
            raise self._refuse()
        return w.reshape(-1).view(np.uint8).copy()

    def _unpack(self, data: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.float32]:
        return data.view(np.float32).reshape(rows, columns).copy()


class F16(Format):
    """IEEE half precision, rounded to nearest even."""

    name, packed, dtype, bits, block_rows = "f16", False, "F16", 16.0, 1

    def nbytes(self, rows: int, columns: int) -> int:
        return rows * columns * 2

    def _pack(self, w: NDArray[np.float32]) -> NDArray[np.uint8]:
        with np.errstate(over="ignore"):
            half = w.astype(np.float16)
        if not np.isfinite(half).all():
            raise self._refuse()
        return half.reshape(-1).view(np.uint8)

    def _unpack(self, data: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.float32]:
        return data.view(np.float16).reshape(rows, columns).astype(np.float32)


class BF16(Format):
    """The upper half of an IEEE single, rounded to nearest even."""

    name, packed, dtype, bits, block_rows = "bf16", False, "BF16", 16.0, 1

    def nbytes(self, rows: int, columns: int) -> int:
        return rows * columns * 2

    def _pack(self, w: NDArray[np.float32]) -> NDArray[np.uint8]:
        bits = w.reshape(-1).view(np.uint32)
        odd = (bits >> np.uint32(16)) & np.uint32(1)
        upper = ((bits + (odd + np.uint32(0x7FFF))) >> np.uint32(16)).astype(np.uint16)
        # A carry out of a NaN's mantissa would look finite, so the source is checked as well as the result.
        if not np.isfinite(w).all() or bool(((upper & np.uint16(0x7F80)) == 0x7F80).any()):
            raise self._refuse()
        return upper.view(np.uint8)

    def _unpack(self, data: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.float32]:
        bits = data.view(np.uint16).astype(np.uint32)
        bits <<= np.uint32(16)
        return bits.view(np.float32).reshape(rows, columns)
