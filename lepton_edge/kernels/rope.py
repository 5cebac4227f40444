"""Rotary positions (Su et al. 2021), and the one place that writes keys and values into the cache.

The pairs of a head are (i, i + dim/2), as Hugging Face stores them.  The query heads are
rotated where they lie, the key heads are rotated into the cache, the value heads are copied into it.
"""

from collections.abc import Callable

from .common import at, each_token
from .layout import PAGE, PAGES, PAGES_STRIDE, POSITIONS, SCRATCH, SCRATCH_STRIDE, SLOTS
from .ops import field
from .simd.words import (
    fma,
    get_f32,
    get_i64,
    get_u16,
    jit,
    load_f32,
    load_f32_some,
    mul,
    put_f32,
    put_u16,
    store_f16,
    store_f32,
    store_f32_some,
    sub,
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
    """n floats, and zeros up to a multiple of 16."""
    for i in range(0, n, 16):
        store_f32(target + i * 4, load_f32_some(source + i * 4, n - i))


@jit
def page_of(context, slot, position, layer):
    """Address of one layer's part of the page that holds a position of a sequence."""
    table = at(context, PAGES) + slot * at(context, PAGES_STRIDE)
    return get_i64(table + position // PAGE * 8) + layer


@jit
def put_key_f32(k, scratch, d):
    for i in range(d):
        put_f32(k + i * 64, get_f32(scratch + i * 4))


@jit
def put_key_f16(k, scratch, d):
    for i in range(0, d, 16):
        store_f16(scratch + i * 2, load_f32(scratch + i * 4))
    for i in range(d):
        put_u16(k + i * 32, get_u16(scratch + i * 2))


def rope(size: int, store: Callable, put_key: Callable) -> Callable:
    """The kernel for a cache whose values take `size` bytes."""
    op = f"rope_f{8 * size}"
    Q, LDQ, K, V, LDK, HEADS, KV_HEADS, HEAD_DIM, ROPE_DIM, TABLE, LAYER = (field(op, f) for f in ROW_FIELDS)

    @jit
    def one(row, context, thread, t, tokens):
        heads, kv_heads, d, dim = at(row, HEADS), at(row, KV_HEADS), at(row, HEAD_DIM), at(row, ROPE_DIM)
        padded = (d + 15) // 16 * 16
        scratch = at(context, SCRATCH) + thread * at(context, SCRATCH_STRIDE)
        position, slot = get_i64(at(context, POSITIONS) + 8 * t), get_i64(at(context, SLOTS) + 8 * t)
        angles = at(row, TABLE) + position * dim * 4
        for head in range(heads):
            q = at(row, Q) + (t * at(row, LDQ) + head * d) * 4
            rotate(q, q, dim, angles)
        page = page_of(context, slot, position, at(row, LAYER))
        for g in range(kv_heads):
            cache, offset = page + g * PAGE * (d + padded) * size, (t * at(row, LDK) + g * d) * 4
            copy(at(row, K) + offset, scratch, d)
            rotate(scratch, scratch, dim, angles)
            put_key(cache + position % PAGE // 16 * (16 * d * size) + position % 16 * size, scratch, d)
            v = cache + PAGE * d * size + position % PAGE * padded * size
            for i in range(0, d, 16):
                store(v + i * size, load_f32_some(at(row, V) + offset + i * 4, d - i))

    return each_token(one)


KERNELS = {
    "rope_f16": lambda: rope(2, store_f16, put_key_f16),
    "rope_f32": lambda: rope(4, store_f32, put_key_f32),
}
