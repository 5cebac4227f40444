"""Rotary positions (Su et al. 2021), norms of heads, and the keys and values into the cache: a warp for each head.

Heads are normed and turned where they lie; then keys and values are copied into the cache.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda

from ..layout import PAGE
from ..ops import CACHES
from .cache import cache, page_of
from .common import F0, F1, at, count, warp_here, warps_there
from .elementwise import fields
from .layout import PAGES, POSITIONS
from .words import LANES, begin, get_f32, get_i64, jit, put_f32, sync_warp, warp_sum

__all__ = ["KERNELS"]

F = fields("rope_f32")
(
    Q, LDQ, Q_STEP, K, V, LDK, K_STEP, HEADS, KV_HEADS, HEAD_DIM, ROPE_DIM, PAIRED, TABLE, LAYER, Q_NORM, K_NORM,
    NORM_STEP, NORM_BIAS, NORM_EPS, NORM_CENTER,
) = F.values()  # fmt: skip


@jit
def norm_head(row, x, weight, d):
    """Norm the d numbers at x, by their root mean square or by mean and deviation."""
    lane, mean, total = cuda.threadIdx.x % LANES, F0, F0
    if at(row, NORM_CENTER) != 0:
        for i in range(lane, d, LANES):
            mean += get_f32(x + 4 * i)
        mean = warp_sum(mean) / np.float32(d)
    for i in range(lane, d, LANES):
        away = get_f32(x + 4 * i) - mean
        total += away * away
    scale = F1 / math.sqrt(warp_sum(total) / np.float32(d) + get_f32(row + NORM_EPS))
    behind = at(row, NORM_BIAS) * 4
    for i in range(lane, d, LANES):
        value = (get_f32(x + 4 * i) - mean) * scale * get_f32(weight + 4 * i)
        put_f32(x + 4 * i, value + get_f32(weight + behind + 4 * i) if behind != 0 else value)


@jit
def turn(row, x, norms, head, angles):
    """Norm and turn a head at x.  norms: the field of the norms' weights, which may be 0."""
    weight, dim = at(row, norms), at(row, ROPE_DIM)
    if weight != 0:
        norm_head(row, x, weight + head * at(row, NORM_STEP) * 4, at(row, HEAD_DIM))
        sync_warp()
    half = dim // 2
    step, apart = (8, 4) if at(row, PAIRED) != 0 else (4, 4 * half)
    for i in range(cuda.threadIdx.x % LANES, half, LANES):
        a, b = get_f32(x + i * step), get_f32(x + i * step + apart)
        cos, sin = get_f32(angles + 4 * i), get_f32(angles + 4 * (half + i))
        put_f32(x + i * step, a * cos - b * sin)
        put_f32(x + i * step + apart, b * cos + a * sin)
    sync_warp()


def rope_kernel(name: str) -> Callable[..., None]:
    kind = cache(name)
    head_bytes, put = kind.head, kind.put

    @jit
    def turn_or_put(row, context, t, head):
        """Head number `head` of token t: those of q, then of k, then of v."""
        heads, kv_heads, d = at(row, HEADS), at(row, KV_HEADS), at(row, HEAD_DIM)
        position = get_i64(at(context, POSITIONS) + 8 * t)
        angles = at(row, TABLE) + position * at(row, ROPE_DIM) * 4
        if head < heads:
            group = heads // kv_heads
            g = head // group
            x = at(row, Q) + (t * at(row, LDQ) + g * at(row, Q_STEP) + (head - g * group) * d) * 4
            turn(row, x, Q_NORM, head, angles)
            return
        value = 1 if head >= heads + kv_heads else 0
        g = head - heads - value * kv_heads
        x = at(row, V if value != 0 else K) + (t * at(row, LDK) + g * at(row, K_STEP)) * 4
        if value == 0:
            turn(row, x, K_NORM, g, angles)
        page = page_of(context, PAGES, t, position) + at(row, LAYER) + g * head_bytes(d)
        put(page, value, position % PAGE, d, x)

    def kernel(row, context, extra):
        begin()
        for t in range(cuda.blockIdx.y, count(extra), cuda.gridDim.y):
            for head in range(warp_here(), at(row, HEADS) + 2 * at(row, KV_HEADS), warps_there()):
                turn_or_put(row, context, t, head)

    return kernel


KERNELS: dict[str, Callable[[], Any]] = {f"rope_{name}": lambda name=name: rope_kernel(name) for name in CACHES}
