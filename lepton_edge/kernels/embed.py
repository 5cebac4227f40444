"""y[t] (+)= row id[t], or that of its position or segment, of an embedding table of any format, as floats.

The padding becomes zero: a token before may have left NaN there, which later ops would keep and spread.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from .common import F0, F1, at, each_token, get_f32, scratch_of
from .layout import BLOCK, GROUP, IDS, POSITIONS, Q4_GROUP, Q8_GROUP, SCALES, SEGMENTS
from .ops import BY_ID, BY_POSITION, field
from .simd.words import (
    add,
    get_i64,
    get_u8,
    jit,
    lane,
    load_bf16,
    load_bf16_some,
    load_f16,
    load_f16_some,
    load_f32,
    load_f32_some,
    mul,
    put_f32,
    splat,
    store_f32,
    store_f32_some,
)

LOADS = {
    "f32": (4, load_f32, load_f32_some),
    "f16": (2, load_f16, load_f16_some),
    "bf16": (2, load_bf16, load_bf16_some),
}
ROW_FIELDS = ("w", "y", "ldy", "n", "groups", "block_bytes", "scale", "by", "offset", "accumulate")


def lookup(op: str, copy: Callable) -> Callable:
    """A kernel that calls `copy(w, id, y, n, groups, block_bytes)` for every token.

    What is added to y is copied into the thread's scratch first.
    """
    W, Y, LDY, N, GROUPS, BLOCK_BYTES, SCALE, BY, OFFSET, ACCUMULATE = (field(op, f) for f in ROW_FIELDS)

    @jit
    def one(row, context, thread, t, tokens):
        n, ld, scale, y = at(row, N), at(row, LDY), get_f32(row + SCALE), at(row, Y) + t * at(row, LDY) * 4
        by = at(row, BY)
        source = at(context, IDS if by == BY_ID else POSITIONS if by == BY_POSITION else SEGMENTS)
        to = y
        if at(row, ACCUMULATE) != 0:
            to = scratch_of(context, thread)
        copy(at(row, W), get_i64(source + 8 * t) + at(row, OFFSET), to, n, at(row, GROUPS), at(row, BLOCK_BYTES))
        for i in range(n, ld):
            put_f32(to + i * 4, F0)
        if to != y or scale != F1:
            for i in range(0, ld * 4, 64):
                value = mul(load_f32(to + i), splat(scale))
                store_f32(y + i, add(value, load_f32(y + i)) if to != y else value)

    return each_token(one)


def plain(name: str) -> Callable:
    """The kernel for a row-major table."""
    size, load, load_some = LOADS[name]

    @jit
    def copy(w, token, y, n, groups, block_bytes):
        x = w + token * n * size
        for _ in range(n // 16):
            store_f32(y, load(x))
            x += 16 * size
            y += 64
        if n % 16 != 0:
            store_f32_some(y, load_some(x, n % 16), n % 16)

    return lookup(f"embed_{name}", copy)


@jit
def copy_q8(w, token, y, n, groups, block_bytes):
    block, r = w + token // BLOCK * block_bytes, token % BLOCK
    for g in range(groups):
        scale = lane(load_f16(block), r)
        for c in range(min(GROUP, n - g * GROUP)):
            value = get_u8(block + SCALES + c // 4 * 64 + r * 4 + c % 4) - 128
            put_f32(y + (g * GROUP + c) * 4, np.float32(value) * scale)
        block += Q8_GROUP


@jit
def copy_q4(w, token, y, n, groups, block_bytes):
    block, r = w + token // BLOCK * block_bytes, token % BLOCK
    for g in range(groups):
        scale = lane(load_f16(block), r)
        for c in range(min(GROUP, n - g * GROUP)):
            byte = get_u8(block + SCALES + c // 8 * 64 + r * 4 + c % 4)
            value = (byte >> (c % 8 // 4 * 4) & 15) - 8
            put_f32(y + (g * GROUP + c) * 4, np.float32(value) * scale)
        block += Q4_GROUP


@jit
def copy_mxfp4(w, token, y, n, groups, block_bytes):
    block, r = w + token // BLOCK * block_bytes, token % BLOCK
    for g in range(groups):
        scale = lane(load_bf16(block), r)
        for c in range(min(GROUP, n - g * GROUP)):
            byte = get_u8(block + SCALES + c // 8 * 64 + r * 4 + c % 4)
            code = byte >> (c % 8 // 4 * 4) & 15
            size = code & 7  # 0 1 2 3 4 5 6 7 stand for 0 1 2 3 4 6 8 12
            size += max(0, size - 4) + 2 * max(0, size - 6)
            put_f32(y + (g * GROUP + c) * 4, np.float32(size if code < 8 else -size) * scale)
        block += Q4_GROUP


KERNELS = {
    **{f"embed_{name}": partial(plain, name) for name in LOADS},
    "embed_q8": partial(lookup, "embed_q8", copy_q8),
    "embed_q4": partial(lookup, "embed_q4", copy_q4),
    "embed_mxfp4": partial(lookup, "embed_mxfp4", copy_mxfp4),
}
