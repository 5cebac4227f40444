"""Where the keys and values of a position lie on the device, and how numbers get in and out (see `layout.py`)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from ..layout import GROUP, PAGE
from .common import F0, F1
from .words import LANES, get_f16, get_f32, get_i8, get_i64, jit, max_nan, put_f16, put_f32, put_i8, round_i32, warp_max

__all__ = ["Cache", "cache", "page_of"]

LARGEST_F16 = np.float32(65504)


class Cache(NamedTuple):
    """One number format: jitted functions.

    head(d): bytes of a head in a page.  put(head, value, position, d, x): d floats at x as a key (value 0) or a value
    (1) of a position in the page, by a warp.  get(head, value, position, d, i): one number of them.
    """

    head: Callable[..., Any]
    put: Callable[..., Any]
    get: Callable[..., Any]


@jit
def page_of(context, pages, t, position):
    """The page with a position of token t's sequence, or of its memory."""
    return get_i64(get_i64(get_i64(context + pages) + 8 * t) + position // PAGE * 8)


def _plain(size: int, get_number: Any, put_number: Any) -> Cache:
    @jit
    def head(d):
        return PAGE * (d + (d + 15) // 16 * 16) * size

    @jit
    def put(head, value, position, d, x):
        to = head + (value * PAGE + position) * d * size
        for i in range(cuda.threadIdx.x % LANES, d, LANES):
            put_number(to + i * size, get_f32(x + 4 * i))

    @jit
    def get(head, value, position, d, i):
        return get_number(head + ((value * PAGE + position) * d + i) * size)

    return Cache(head, put, get)


@jit
def put_limited_f16(address, x):
    put_f16(address, max(-LARGEST_F16, min(LARGEST_F16, x)) if x == x else x)


def _q8() -> Cache:
    @jit
    def head(d):
        return 2 * PAGE * ((d + GROUP - 1) // GROUP) * (GROUP + 2)

    @jit
    def scale_at(head, value, position, groups):
        return head + 2 * PAGE * groups * GROUP + (value * PAGE + position) * groups * 2

    @jit
    def put(head, value, position, d, x):
        """The scale max|x| / 127 rounds to f16 before the codes are made of it, so a code may pass 127."""
        groups, lane = (d + GROUP - 1) // GROUP, cuda.threadIdx.x % LANES
        for g in range(groups):
            top = F0
            for i in range(g * GROUP + lane, min(d, (g + 1) * GROUP), LANES):
                top = max_nan(top, abs(get_f32(x + 4 * i)))
            top = warp_max(top) * np.float32(1 / 127)
            scale = scale_at(head, value, position, groups) + 2 * g
            put_f16(scale, top)
            rounded = get_f16(scale)  # each lane writes the same, and reads its own
            inverse = F1 / rounded if rounded > F0 else F0
            to = head + (value * PAGE + position) * groups * GROUP
            for i in range(g * GROUP + lane, (g + 1) * GROUP, LANES):
                code = get_f32(x + 4 * i) * inverse if i < d else F0
                put_i8(to + i, round_i32(max(np.float32(-127), min(np.float32(127), code))))

    @jit
    def get(head, value, position, d, i):
        groups = (d + GROUP - 1) // GROUP
        code = get_i8(head + (value * PAGE + position) * groups * GROUP + i)
        return np.float32(code) * get_f16(scale_at(head, value, position, groups) + 2 * (i // GROUP))

    return Cache(head, put, get)


def cache(name: str) -> Cache:
    """The cache in f32, f16 or q8."""
    if name == "q8":
        return _q8()
    return _plain(4, get_f32, put_f32) if name == "f32" else _plain(2, get_f16, put_limited_f16)
