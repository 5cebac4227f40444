"""Rotary positions (Su et al. 2021), and the one place that writes keys and values into the cache.

The pairs of a head are (i, i + dim/2), as Hugging Face stores them.  The query heads are
rotated where they lie, the key heads are rotated into the cache, the value heads are copied into it.
"""

from collections.abc import Callable
from functools import partial as bind

import numpy as np

from .cache import cache, groups_of, page_of
from .common import F0, F1, at, each_token, small
from .layout import GROUP, PAGE, POSITIONS, Q8_GROUP, SCALES, SCRATCH, SCRATCH_STRIDE, SLOTS
from .ops import field
from .simd.words import (
    fma,
    get_f32,
    get_i32,
    get_i64,
    get_u16,
    jit,
    lane,
    largest,
    load_f16,
    load_f32,
    load_f32_some,
    mul,
    put_f32,
    put_i32,
    put_u16,
    round_i32,
    splat,
    store_f16,
    store_f32,
    store_f32_some,
    store_i8,
    sub,
    vmax,
    vmin,
)

ROW_FIELDS = ("q", "ldq", "k", "v", "ldk", "heads", "kv_heads", "head_dim", "rope_dim", "table", "layer")


@jit
def rotate(source, target, dim, angles):
    """target = source rotated; `angles` holds dim/2 cosines, then dim/2 sines."""
    half = dim // 2
    for i in range(0, half, 16):
        n, o = half - i, i * 4
        a, b = load_f32_some(source + o, n), load_f32_some(source + half * 4 + o, n)
        cos, sin = load_f32_some(angles + o, n), load_f32_some(angles + half * 4 + o, n)
        store_f32_some(target + o, sub(mul(a, cos), mul(b, sin)), n)
        store_f32_some(target + half * 4 + o, fma(b, cos, mul(a, sin)), n)


@jit
def copy(source, target, n):
    """n floats, and zeros up to a multiple of a group."""
    for i in range(0, groups_of(n) * GROUP, 16):
        store_f32(target + i * 4, load_f32_some(source + i * 4, n - i))


# -- storing a position of a head: its key lies in `scratch`, padded with zeros; room for a group's codes follows ------


@jit
def put_f32_head(k, v, position, d, scratch, values):
    to = k + position // 16 * (16 * d * 4) + position % 16 * 4
    for i in range(d):
        put_f32(to + i * 64, get_f32(scratch + i * 4))
    for i in range(0, d, 16):
        store_f32(v + position * ((d + 15) // 16 * 16 * 4) + i * 4, load_f32_some(values + i * 4, d - i))


@jit
def put_f16_head(k, v, position, d, scratch, values):
    to = k + position // 16 * (16 * d * 2) + position % 16 * 2
    for i in range(0, d, 16):
        store_f16(scratch + i * 2, load_f32(scratch + i * 4))
    for i in range(d):
        put_u16(to + i * 32, get_u16(scratch + i * 2))
    for i in range(0, d, 16):
        store_f16(v + position * ((d + 15) // 16 * 16 * 2) + i * 2, load_f32_some(values + i * 4, d - i))


@jit
def put_group(x, codes, scale):
    """32 floats at `x` to int8 codes round(x / scale) and their scale max|x| / 127, rounded to f16.

    The scale rounds before the codes are made of it, so a code may pass 127 (of a scale that is almost 0, by far).
    NaN shows in the scale.
    """
    low, high = load_f32(x), load_f32(x + 64)
    store_f16(codes, splat(largest(low, high) * np.float32(1 / 127)))
    put_u16(scale, get_u16(codes))
    rounded = lane(load_f16(codes), 0)
    inverse, limit = splat(F1 / rounded if rounded > F0 else F0), splat(np.float32(127))
    for i in range(2):
        x16 = mul(low if i == 0 else high, inverse)
        store_i8(codes + 16 * i, round_i32(vmax(vmin(x16, limit), sub(splat(F0), limit))))


@jit
def put_q8_head(k, v, position, d, scratch, values):
    groups = groups_of(d)
    block, i = k + position // 16 * groups * Q8_GROUP, position % 16
    codes = scratch + groups * GROUP * 4
    for g in range(groups):
        put_group(scratch + g * GROUP * 4, codes, block + g * Q8_GROUP + i * 2)
        for c in range(0, GROUP, 4):
            put_i32(block + g * Q8_GROUP + SCALES + c * 16 + i * 4, get_i32(codes + c) ^ 0x80808080)
    copy(values, scratch, d)
    value_scales = v + PAGE * groups * GROUP
    for g in range(groups):
        put_group(scratch + g * GROUP * 4, codes, value_scales + (g * PAGE + position) * 2)
        to = v + (position * groups + g) * GROUP
        for c in range(0, GROUP, 4):
            put_i32(to + c, get_i32(codes + c))


STORES = {"f16": put_f16_head, "f32": put_f32_head, "q8": put_q8_head}


def store_kernel(name: str) -> Callable:
    """A function that puts one token's key (rotated) and value of a head into a page; `scratch`: 5 bytes a column."""
    kind, put_head = cache(name), STORES[name]
    key_bytes, head_bytes = kind.keys, kind.head

    @jit
    def store(page, g, position, k, v, d, dim, angles, scratch):
        head = page + g * head_bytes(d)
        copy(k + g * d * 4, scratch, d)
        rotate(scratch, scratch, dim, angles)
        put_head(head, head + key_bytes(d), position % PAGE, d, scratch, v + g * d * 4)

    return store


def rope(name: str) -> Callable:
    """The kernel for a cache in f32, f16 or q8."""
    op, store = f"rope_{name}", store_kernel(name)
    Q, LDQ, K, V, LDK, HEADS, KV_HEADS, HEAD_DIM, ROPE_DIM, TABLE, LAYER = (field(op, f) for f in ROW_FIELDS)

    @jit
    def one(row, context, thread, t, tokens):
        heads, kv_heads, d, dim = at(row, HEADS), at(row, KV_HEADS), at(row, HEAD_DIM), at(row, ROPE_DIM)
        scratch = at(context, SCRATCH) + thread * at(context, SCRATCH_STRIDE)
        position, slot = get_i64(at(context, POSITIONS) + 8 * t), get_i64(at(context, SLOTS) + 8 * t)
        angles = at(row, TABLE) + position * dim * 4
        for head in range(heads):
            q = at(row, Q) + (t * at(row, LDQ) + head * d) * 4
            rotate(q, q, dim, angles)
        page = page_of(context, slot, position, at(row, LAYER))
        offset = t * at(row, LDK) * 4
        for g in range(kv_heads):
            store(page, g, position, at(row, K) + offset, at(row, V) + offset, d, dim, angles, scratch)

    shared = each_token(one)

    @jit
    def kernel(row, context, thread):
        if not small(context):  # else attention does it
            shared(row, context, thread)

    return kernel


KERNELS = {f"rope_{name}": bind(rope, name) for name in STORES}
