"""y[t] = row id[t] of the embedding table, as floats, whatever format the table has.

The padding becomes zero: a token before may have left NaN there, which later ops would keep and spread.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from .common import F0, at, each_token
from .layout import BLOCK, GROUP, IDS, Q4_GROUP, Q8_GROUP, SCALES
from .ops import field
from .simd.words import (
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
    put_f32,
    store_f32,
    store_f32_some,
)

LOADS = {
    "f32": (4, load_f32, load_f32_some),
    "f16": (2, load_f16, load_f16_some),
    "bf16": (2, load_bf16, load_bf16_some),
}
ROW_FIELDS = ("w", "y", "ldy", "n", "groups", "block_bytes")


def lookup(op: str, copy: Callable) -> Callable:
    """A kernel that calls `copy(w, id, y, n, groups, block_bytes)` for every token."""
    W, Y, LDY, N, GROUPS, BLOCK_BYTES = (field(op, f) for f in ROW_FIELDS)

    @jit
    def one(row, context, thread, t, tokens):
        y = at(row, Y) + t * at(row, LDY) * 4
        copy(at(row, W), get_i64(at(context, IDS) + 8 * t), y, at(row, N), at(row, GROUPS), at(row, BLOCK_BYTES))
        for i in range(at(row, N), at(row, LDY)):
            put_f32(y + i * 4, F0)

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


KERNELS = {
    **{f"embed_{name}": partial(plain, name) for name in LOADS},
    "embed_q8": partial(lookup, "embed_q8", copy_q8),
    "embed_q4": partial(lookup, "embed_q4", copy_q4),
}
