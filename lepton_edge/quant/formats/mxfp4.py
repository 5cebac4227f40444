"""mxfp4: 4-bit floats (E2M1) times a power of two per 32 weights, as gpt-oss has its experts (4.5 bits a weight).

Source: OCP Microscaling Formats (MX) 1.0, sections 5.3 and 6.3.  In our blocks, which lie as those of q4, a code stands
for twice its value, a whole number, and the scale is half of the group's, as a bfloat16, which holds it exactly.
"""

import numpy as np
from numpy.typing import NDArray

from lepton_edge.quant.formats.blocks import GROUP, ROWS, BlockFormat, join_bytes, split_bytes

__all__ = ["Mxfp4"]

TWICE = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)  # by code
# |w| / scale from which on the next code is nearer; at the border itself the even code wins.
BORDERS = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)
LARGEST = 252  # E8M0 of the largest scale, 2^125: from the next one on a weight might be infinite; 255 is NaN
# By E8M0: half of the scale, as a bfloat16.
HALVES = (np.ldexp(np.float32(1), np.arange(LARGEST + 1) - 128).view(np.uint32) >> 16).astype(np.uint16)
STEP = 1 << 19  # weights repacked at a time, so that they stay in a cache: twice as fast as a whole matrix at once


class Mxfp4(BlockFormat):
    """Codes as they are; byte j of lane c holds column 8c+j (low half) and column 8c+4+j (high half)."""

    name, bits, lanes = "mxfp4", 4.5, 4

    def encode(self, w: NDArray[np.float32]) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
        """The scale that puts the group's largest magnitude at 4 to 8, where what is above 6 becomes 6.

        Weights that are such codes times any such scale are kept exactly.
        """
        top = np.maximum(w.max(axis=0), -w.min(axis=0))
        exponent = np.maximum(np.frexp(top)[1] - 3, -127)
        inside = np.ldexp(np.abs(w), -exponent)
        codes = np.zeros(w.shape, np.uint8)
        for i, border in enumerate(BORDERS):
            codes += (inside >= border) if i % 2 else (inside > border)
        codes |= (np.signbit(w) & (codes > 0)).astype(np.uint8) << np.uint8(3)
        halves = codes.reshape(self.lanes, 2, 4, -1)
        half = np.ldexp(np.float32(1), exponent - 1)
        scale = np.where(top > 0, np.where(np.isfinite(top), half, np.float32(np.nan)), top)
        return join_bytes(halves[:, 0] | (halves[:, 1] << np.uint8(4))), scale.astype(np.float32)

    def decode(self, lanes: NDArray[np.uint32]) -> NDArray[np.float32]:
        stored = split_bytes(lanes)
        codes = np.empty((self.lanes, 2, 4, lanes.shape[1]), np.float32)
        codes[:, 0] = TWICE[stored & np.uint8(15)]
        codes[:, 1] = TWICE[stored >> np.uint8(4)]
        return codes.reshape(GROUP, -1)

    def narrow(self, scales: NDArray[np.floating]) -> NDArray[np.uint16]:
        return (scales.view(np.uint32) >> np.uint32(16)).astype(np.uint16)

    def widen(self, scales: NDArray[np.uint16]) -> NDArray[np.float32]:
        return (scales.astype(np.uint32) << np.uint32(16)).view(np.float32)

    def from_checkpoint(self, blocks: NDArray[np.uint8], scales: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The packed bytes of a matrix as checkpoints hold it, exactly.

        blocks: [N, groups, 16], byte i of a group has column 2i in its low half and 2i+1 in its high half.  scales:
        [N, groups], E8M0: 2^(s - 127).  N: a multiple of 16.  RequestError for a scale that is NaN or too large.
        """
        if scales.max(initial=0) > LARGEST:
            raise self._refuse()
        rows, groups = scales.shape
        data = np.zeros(self.nbytes(rows, groups * GROUP), np.uint8)
        lanes, halves = self.views(data, rows, groups * GROUP)
        halves[...] = HALVES[scales].reshape(-1, ROWS, groups).transpose(0, 2, 1)
        step = max(1, STEP // (ROWS * GROUP * max(1, groups)))
        for i in range(0, len(lanes), step):
            # A word has columns 8c … 8c+7 in its nibbles, from the lowest on; ours has 8c, 8c+4, 8c+1, 8c+5, …
            words = np.ascontiguousarray(blocks[i * ROWS : (i + step) * ROWS]).view(np.uint32)
            words = _swap(_swap(words, 8, 0x0000FF00), 4, 0x00F000F0)
            lanes[i : i + step] = words.reshape(-1, ROWS, groups, self.lanes).transpose(0, 2, 3, 1)
        return data


def _swap(words: NDArray[np.uint32], distance: int, lower: int) -> NDArray[np.uint32]:
    """The bits of `lower` and those `distance` above them change places."""
    change = (words ^ (words >> np.uint32(distance))) & np.uint32(lower)
    return words ^ change ^ (change << np.uint32(distance))
