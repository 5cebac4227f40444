"""What every weight format can do."""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from lepton_edge.errors import RequestError

__all__ = ["Format"]


class Format(ABC):
    """A way to store a matrix of N output rows and K input columns as bytes.

    name: what users type. packed: stored in row blocks (safetensors dtype U8) instead of row-major numbers.
    dtype: its safetensors dtype. bits: bytes it takes per weight, times 8, for large matrices.
    block_rows: `pack` of a multiple of this many rows gives exactly those rows' part of the whole.
    """

    name: str
    packed: bool
    dtype: str
    bits: float
    block_rows: int

    @abstractmethod
    def nbytes(self, rows: int, columns: int) -> int:
        """Bytes of a packed [rows, columns] matrix."""

    def pack(self, w: NDArray[np.float32]) -> NDArray[np.uint8]:
        """float32 [N, K] -> its nbytes(N, K) bytes, uint8 1-D.

        Raises RequestError for another dtype or rank, and for weights that are not finite or too large.
        """
        if w.ndim != 2 or w.dtype != np.float32:
            raise RequestError(f"cannot pack {w.dtype} of shape {list(w.shape)}; expected float32 of shape [N, K]")
        return self._pack(np.ascontiguousarray(w))

    def unpack(self, data: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.float32]:
        """The inverse of `pack` up to rounding: uint8 [nbytes(N, K)] -> float32 [N, K], a new array.

        Raises RequestError when `data` is not exactly that many bytes.
        """
        expected = self.nbytes(rows, columns)
        if data.dtype != np.uint8 or data.shape != (expected,):
            raise RequestError(
                f"cannot unpack {data.dtype} of shape {list(data.shape)} as {self.name} of shape [{rows}, {columns}]; "
                f"expected {expected} bytes"
            )
        return self._unpack(data, rows, columns)

    @abstractmethod
    def _pack(self, w: NDArray[np.float32]) -> NDArray[np.uint8]: ...

    @abstractmethod
    def _unpack(self, data: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.float32]: ...

    def _refuse(self) -> RequestError:
        return RequestError(
            f"weights that are NaN, infinite or too large for {self.name}; expected finite values; "
            "check the checkpoint, or keep the tensor as f32"
        )
