"""q8: signed 8-bit codes, a scale per 32 weights (8.5 bits a weight)."""

import numpy as np
from numpy.typing import NDArray

from lepton_edge.quant.formats.blocks import GROUP, BlockFormat, join_bytes, split_bytes

__all__ = ["Q8"]


class Q8(BlockFormat):
    """Codes -127..127, stored plus 128; lane c of a row holds columns 4c..4c+3, one byte each."""

    name, bits, lanes = "q8", 8.5, 8

    def encode(self, w: NDArray[np.float32]) -> tuple[NDArray[np.uint32], NDArray[np.float16]]:
        """The largest magnitude of the group becomes 127; the others are rounded to nearest."""
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            scale = (np.maximum(w.max(axis=0), -w.min(axis=0)) / np.float32(127)).astype(np.float16)
            stored = scale.astype(np.float32)
            codes = w * np.where(stored > 0, np.float32(1) / stored, np.float32(0))
            np.rint(codes, out=codes)
            np.clip(codes, np.float32(-127), np.float32(127), out=codes)
            codes += np.float32(128)
            return join_bytes(codes.astype(np.uint8).reshape(self.lanes, 4, -1)), scale

    def decode(self, lanes: NDArray[np.uint32]) -> NDArray[np.float32]:
        codes = split_bytes(lanes).reshape(GROUP, -1).astype(np.float32)
        codes -= np.float32(128)
        return codes
