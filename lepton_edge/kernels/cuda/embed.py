"""y[t] (+)= scale * a row of an embedding table of any format, a warp for each group of 32 numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda

from ..layout import BLOCK, GROUP, GROUP_BYTES, SCALES
from ..ops import BY_ID, BY_POSITION
from .common import F0, at, count, warp_here, warps_there
from .elementwise import fields
from .layout import IDS, POSITIONS, SEGMENTS
from .words import LANES, begin, get_bf16, get_f16, get_f32, get_i64, get_u8, jit, put_f32

__all__ = ["KERNELS", "getter"]

PLAIN = {"f32": (get_f32, 4), "f16": (get_f16, 2), "bf16": (get_bf16, 2)}


def plain(name: str) -> Callable[..., Any]:
    get, size = PLAIN[name]

    @jit
    def number(w, r, i, n, block_bytes):
        return get(w + (r * n + i) * size)

    return number


def packed(name: str) -> Callable[..., Any]:
    """See `quant/formats`: blocks of 16 rows, in each groups of 32 columns: 16 f16 scales, and then codes."""
    group_bytes, halves = GROUP_BYTES[name], name == "q4"

    @jit
    def number(w, r, i, n, block_bytes):
        group = w + r // BLOCK * block_bytes + i // GROUP * group_bytes
        scale, c, r = get_f16(group + 2 * (r % BLOCK)), i % GROUP, r % BLOCK
        if halves:
            code = get_u8(group + SCALES + c // 8 * 64 + r * 4 + c % 4)
            code = code >> 4 if c % 8 >= 4 else code & 15
            return np.float32(code - 8) * scale
        return np.float32(get_u8(group + SCALES + c // 4 * 64 + r * 4 + c % 4) - 128) * scale

    return number


def getter(name: str) -> Callable[..., Any]:
    """A word (w, row, column, columns, block_bytes) -> a weight as float, for a format."""
    return plain(name) if name in PLAIN else packed(name)


def embed_kernel(name: str) -> Callable[..., None]:
    f, number = fields(f"embed_{name}"), getter(name)
    W, Y, LDY, N, BLOCK_BYTES = (f[key] for key in ("w", "y", "ldy", "n", "block_bytes"))
    SCALE, BY, OFFSET, ACCUMULATE = (f[key] for key in ("scale", "by", "offset", "accumulate"))

    def kernel(row, context, extra):
        n, ld, by = at(row, N), at(row, LDY), at(row, BY)
        source = at(context, IDS if by == BY_ID else POSITIONS if by == BY_POSITION else SEGMENTS)
        groups = ld // GROUP
        begin()
        for t in range(cuda.blockIdx.y, count(extra), cuda.gridDim.y):
            r = get_i64(source + 8 * t) + at(row, OFFSET)
            for i in range(warp_here() * LANES + cuda.threadIdx.x % LANES, groups * GROUP, LANES * warps_there()):
                y = at(row, Y) + (t * ld + i) * 4
                value = F0
                if i < n:
                    value = number(at(row, W), r, i, n, at(row, BLOCK_BYTES)) * get_f32(row + SCALE)
                    if at(row, ACCUMULATE) != 0:
                        value += get_f32(y)
                put_f32(y, value)

    return kernel


KERNELS: dict[str, Callable[[], Any]] = {
    f"embed_{name}": lambda name=name: embed_kernel(name) for name in (*PLAIN, "q8", "q4")
}
