"""Rotary positions (Su et al. 2021), and the one place that writes keys and values into the cache.

The query heads are normed and rotated where they lie, the key heads are so put into the cache, the value heads are
copied into it.
"""

from collections.abc import Callable
from functools import partial as bind

import numpy as np

from .cache import cache, groups_of, page_of
from .common import F0, F1, at, each_token, scratch_of, small
from .layout import GROUP, PAGE, POSITIONS, Q8_GROUP, SCALES, SLOTS
from .ops import OPS, field
from .simd.words import (
    add,
    div,
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
    reduce_add,
    round_i32,
    splat,
    sqrt,
    store_f16,
    store_f32,
    store_f32_some,
    store_i8,
    sub,
    vmax,
    vmin,
    within,
)

# Rope's fields, which attention's rows begin with, whatever the cache.
(
    Q, LDQ, Q_STEP, K, V, LDK, K_STEP, HEADS, KV_HEADS, HEAD_DIM, ROPE_DIM, PAIRED, TABLE, LAYER, Q_NORM, K_NORM,
    NORM_STEP, NORM_BIAS, NORM_EPS, NORM_CENTER,
) = (field("rope_f32", name) for name, _ in OPS["rope_f32"].fields)  # fmt: skip


@jit
def rotate(x, dim, angles):
    """Turn the pairs (i, i + dim/2) at x; `angles` holds dim/2 cosines, then dim/2 sines."""
    half = dim // 2
    for i in range(0, half, 16):
        n, o = half - i, i * 4
        a, b = load_f32_some(x + o, n), load_f32_some(x + half * 4 + o, n)
        cos, sin = load_f32_some(angles + o, n), load_f32_some(angles + half * 4 + o, n)
        store_f32_some(x + o, sub(mul(a, cos), mul(b, sin)), n)
        store_f32_some(x + half * 4 + o, fma(b, cos, mul(a, sin)), n)


@jit
def rotate_pairs(x, dim, angles):
    """Turn the pairs (2 i, 2 i + 1) at x."""
    for i in range(dim // 2):
        a, b = get_f32(x + 8 * i), get_f32(x + 8 * i + 4)
        cos, sin = get_f32(angles + 4 * i), get_f32(angles + dim * 2 + 4 * i)
        put_f32(x + 8 * i, a * cos - b * sin)
        put_f32(x + 8 * i + 4, b * cos + a * sin)


@jit
def norm_head(x, weight, bias, d, eps, center):
    """Norm the d numbers at x: by their root mean square, or `center` by mean and deviation.  bias: 0 for none."""
    count, mean, total = np.float32(d), F0, splat(F0)
    if center != 0:
        for i in range(0, d, 16):
            total = add(total, load_f32_some(x + i * 4, d - i))
        mean, total = reduce_add(total) / count, splat(F0)
    for i in range(0, d, 16):
        away = within(sub(load_f32_some(x + i * 4, d - i), splat(mean)), i, 0, d - 1, F0)
        total = fma(away, away, total)
    scale = div(splat(F1), sqrt(splat(reduce_add(total) / count + eps)))
    for i in range(0, d, 16):
        away = sub(load_f32_some(x + i * 4, d - i), splat(mean))
        y = mul(mul(away, scale), load_f32_some(weight + i * 4, d - i))
        store_f32_some(x + i * 4, add(y, load_f32_some(bias + i * 4, d - i)) if bias != 0 else y, d - i)


@jit
def turn(row, x, norms, head, angles):
    """Norm and rotate a head at x.  `norms`: the field of the norms' weights, which may be 0."""
    weight = at(row, norms)
    if weight != 0:
        weight += head * at(row, NORM_STEP) * 4
        bias = weight + at(row, NORM_BIAS) * 4 if at(row, NORM_BIAS) != 0 else 0
        norm_head(x, weight, bias, at(row, HEAD_DIM), get_f32(row + NORM_EPS), at(row, NORM_CENTER))
    if at(row, PAIRED) != 0:
        rotate_pairs(x, at(row, ROPE_DIM), angles)
    else:
        rotate(x, at(row, ROPE_DIM), angles)


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
    """A function that puts token t's key (turned) and value of head g into a page; `scratch`: 5 bytes a column."""
    kind, put_head = cache(name), STORES[name]
    key_bytes, head_bytes = kind.keys, kind.head

    @jit
    def store(row, page, t, g, position, angles, scratch):
        d, offset = at(row, HEAD_DIM), (t * at(row, LDK) + g * at(row, K_STEP)) * 4
        head = page + g * head_bytes(d)
        copy(at(row, K) + offset, scratch, d)
        turn(row, scratch, K_NORM, g, angles)
        put_head(head, head + key_bytes(d), position % PAGE, d, scratch, at(row, V) + offset)

    return store


def rope(name: str) -> Callable:
    """The kernel for a cache in f32, f16 or q8."""
    store = store_kernel(name)

    @jit
    def one(row, context, thread, t, tokens):
        kv_heads, d = at(row, KV_HEADS), at(row, HEAD_DIM)
        group = at(row, HEADS) // kv_heads
        scratch = scratch_of(context, thread)
        position, slot = get_i64(at(context, POSITIONS) + 8 * t), get_i64(at(context, SLOTS) + 8 * t)
        angles = at(row, TABLE) + position * at(row, ROPE_DIM) * 4
        page = page_of(context, slot, position, at(row, LAYER))
        for g in range(kv_heads):
            q = at(row, Q) + (t * at(row, LDQ) + g * at(row, Q_STEP)) * 4
            for h in range(group):
                turn(row, q + h * d * 4, Q_NORM, g * group + h, angles)
            store(row, page, t, g, position, angles, scratch)

    shared = each_token(one)

    @jit
    def kernel(row, context, thread):
        if not small(context):  # else attention does it
            shared(row, context, thread)

    return kernel


KERNELS = {f"rope_{name}": bind(rope, name) for name in STORES}
