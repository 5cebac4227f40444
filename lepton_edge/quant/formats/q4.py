"""q4: signed 4-bit codes, a scale per 32 weights (4.5 bits a weight)."""

import numpy as np
from numpy.typing import NDArray

from lepton_edge.quant.formats.blocks import GROUP, BlockFormat, join_bytes, split_bytes

__all__ = ["Q4"]

# Steps tried, as parts of the step that puts the group's extreme at -8 (1.0 = plain round to nearest).
# On normal, Laplace and Student-t weights these five come within 0.6% of the error of eighty.
SEARCH = (0.85, 0.92, 1.0, 1.08, 1.16)
SMALLEST = np.float32(2**-22)  # groups below it would get a scale that float16 rounds to zero: they become zero


class Q4(BlockFormat):
    """Codes -8..7, stored plus 8; byte j of lane c holds column 8c+j (low half) and column 8c+4+j (high half)."""

    name, bits, lanes = "q4", 4.5, 4

    def encode(self, w: NDArray[np.float32]) -> tuple[NDArray[np.uint32], NDArray[np.float16]]:
        """Of a few roundings, the one whose least-squares scale leaves the smallest squared error."""
        low, high = w.min(axis=0), w.max(axis=0)
        extreme = np.where(high > -low, high, low)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            scale = (_best_scale(w, extreme) * (extreme / np.float32(-8))).astype(np.float16)
            stored = scale.astype(np.float32)
            inverse = np.where(stored != 0, np.float32(1) / stored, np.float32(0))
            codes = _round(w, inverse, np.empty_like(w))
            codes += np.float32(8)
            halves = codes.astype(np.uint8).reshape(self.lanes, 2, 4, -1)
        return join_bytes(halves[:, 0] | (halves[:, 1] << np.uint8(4))), scale

    def decode(self, lanes: NDArray[np.uint32]) -> NDArray[np.float32]:
        stored = split_bytes(lanes)
        codes = np.empty((self.lanes, 2, 4, lanes.shape[1]), np.float32)
        codes[:, 0] = stored & np.uint8(15)
        codes[:, 1] = stored >> np.uint8(4)
        codes -= np.float32(8)
        return codes.reshape(GROUP, -1)


def _round(w: NDArray[np.float32], inverse: NDArray[np.float32], out: NDArray[np.float32]) -> NDArray[np.float32]:
    """w * inverse rounded to nearest and clipped to the codes, in `out`."""
    np.multiply(w, inverse, out=out)
    np.rint(out, out=out)
    return np.clip(out, np.float32(-8), np.float32(7), out=out)


def _best_scale(w: NDArray[np.float32], extreme: NDArray[np.float32]) -> NDArray[np.float32]:
    """[32, n], [n] -> [n]: the best step for each group, as a part of extreme / -8.

    Codes q of x leave the squared error |x|^2 - (x·q)^2 / (q·q) when the step is x·q / q·q, so the largest
    (x·q)^2 / (q·q) wins. Groups are first scaled to an extreme of -8, so that no square over- or underflows.
    """
    tiny = np.abs(extreme) < SMALLEST
    x = w * np.where(tiny, np.float32(0), np.float32(-8) / extreme)
    q = np.empty_like(x)
    best_gain = np.full(len(extreme), np.float32(-1))
    best = np.zeros_like(best_gain)
    for part in SEARCH:
        _round(x, np.float32(1 / part), q)
        # A group with an extreme of -8 has q·q >= 36; only groups set to zero above have less.
        norm = np.maximum(np.einsum("kg,kg->g", q, q), np.float32(1))
        dot = np.einsum("kg,kg->g", x, q)
        gain = dot * dot / norm
        better = gain > best_gain
        best_gain = np.where(better, gain, best_gain)
        best = np.where(better, dot / norm, best)
    return best
