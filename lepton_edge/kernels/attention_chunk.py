"""One page of keys and values for one chunk of query rows: scores, weights, weighted sum of the values.

A chunk is up to QUERY_ROWS query rows that share each register of keys and values.  A *narrow* kernel reads the page
itself, for one or two chunks; a *wide* one reads floats that were made of the page once for many chunks.  Both compute
the same sums in the same order, so a token's result does not depend on what else is in the batch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .attention_bias import bend
from .cache import Cache, groups_of
from .common import get_f32
from .layout import GROUP, LIMIT, PAGE, Q8_GROUP, RECORD
from .simd.words import (
    ISA,
    add,
    broadcast_f32,
    exp2,
    get_i64,
    i64,
    jit,
    load_f32,
    mul,
    put_f32,
    reduce_max,
    splat,
    store_f32,
    sub,
    unrolled,
    vmax,
    within,
    zeros,
)

LOWEST, MASKED = np.float32(-1e30), np.float32(-3e30)  # 2^(MASKED - LOWEST) is 0, also where a whole row is masked
WIDTHS = ISA.query_rows
QUERY_ROWS = WIDTHS[0]  # query rows of a chunk
LOADS = {"f32": "load_f32", "f16": "load_f16", "q8": "load_i8"}


def score_registers(width: int) -> int:
    """Registers of positions that a chunk takes at once: a power of two, so that a page is a number of whole steps."""
    return max(n for n in (1, 2, 4, 8) if n == 1 or n * width <= ISA.query_registers)


def score_floats(width: int, load: str, size: int, ahead: bool) -> Callable:
    """Scores of `width` query rows against the positions b0..b1 of a page, in registers of 16, K as floats.

    A narrow chunk takes several registers of positions at once, because an fma's result is four cycles away.  It may
    so compute scores past b1, but not past the page.  With `ahead` the V that follows is fetched while K is read (and
    with V the next page's K): the hardware does not foresee these jumps, a third of the time of a long context.
    """
    registers = score_registers(width)

    def multiply(isa: Any, total: list, q: Any, k: Any, stride: Any, distance: Any) -> Sequence:
        for n in range(registers):
            if ahead:
                isa.prefetch(isa.b.add(k, distance), 0, isa.fetch_near)
            keys = getattr(isa, load)(k)
            for i in range(width):
                total[n * width + i] = isa.fma(isa.broadcast_f32(q, 4 * i), keys, total[n * width + i])
            k = isa.b.add(k, stride)
        return total

    count, step = width * registers, 16 * registers
    zero, column, store = zeros(count), unrolled(multiply, count, i64, i64, i64, i64), save_scores(width, registers)

    @jit
    def run(q, k, v, d, b0, b1, scores):
        for b in range(b0 // step * step, b1, step):
            total, keys = zero(), k + b * d * size
            for i in range(d):
                total = column(total, q + i * QUERY_ROWS * 4, keys + i * 16 * size, d * 16 * size, v - k)
            store(total, scores + b * 4)

    return run


def score_codes(width: int, ahead: bool) -> Callable:
    """The same for q8: K lies as a q8 weight does, and meets queries in int8 (see `attention.load_records`)."""
    registers = score_registers(width)

    def multiply(isa: Any, total: list, q: Any, k: Any, stride: Any, distance: Any) -> Sequence:
        block = isa.b.add(k, distance)
        for _ in range(registers if ahead else 0):
            for c in range(8):
                isa.prefetch(block, 64 * c, isa.fetch_near)
            block = isa.b.add(block, stride)
        by_row = [total[n * width + i] for i in range(width) for n in range(registers)]
        by_row = isa.group_products("q8", by_row, k, q, stride, width, registers)
        return [by_row[i * registers + n] for n in range(registers) for i in range(width)]

    count, step = width * registers, 16 * registers
    zero, store = zeros(count), save_scores(width, registers)
    group = unrolled(multiply, count, i64, i64, i64, i64)

    @jit
    def run(q, k, v, d, b0, b1, scores):
        groups = groups_of(d)
        stride = groups * Q8_GROUP
        for b in range(b0 // step * step, b1, step):
            total, block = zero(), k + b // 16 * stride
            for g in range(groups):
                total = group(total, q + g * width * RECORD, block + g * Q8_GROUP, stride, v - k)
            store(total, scores + b * 4)

    return run


def save_scores(width: int, registers: int) -> Callable:
    """A word that stores a tile of scores, [registers][width], as [width][PAGE]."""

    def save(isa: Any, total: list, scores: Any) -> Sequence:
        for n in range(registers):
            for i in range(width):
                isa.store_f32(scores, total[n * width + i], i * PAGE * 4 + n * 64)
        return total

    return unrolled(save, width * registers, i64)


def value_columns(width: int, load: str, apart: int, registers: int, ahead: int) -> Callable:
    """out[row] = out[row] * decay[row] + sum over positions j0..j1 of p[row, j] v[j], for 16 x `registers` columns.

    Registers of columns lie `apart` bytes from each other.  `ahead`: columns of a cache line that is fetched with V, or
    0.  Codes are multiplied with the scales of their position, which are floats, [groups][PAGE].
    """
    count = width * registers

    def begin(isa: Any, total: list, out: Any, stride: Any, decay: Any) -> Sequence:
        for i in range(width):
            for n in range(registers):
                total[i * registers + n] = isa.mul(isa.load_f32(out, 64 * n), isa.broadcast_f32(decay, 4 * i))
            out = isa.b.add(out, stride)
        return total

    def multiply(isa: Any, total: list, p: Any, v: Any, scales: Any, distance: Any) -> Sequence:
        for n in range(0, registers if ahead else 0, max(1, ahead // 16)):
            isa.prefetch(isa.b.add(v, distance), apart * n, isa.fetch_near)
        values = [getattr(isa, load)(v, apart * n) for n in range(registers)]
        if load == "load_i8":
            values = [isa.mul(x, isa.broadcast_f32(scales, n // 2 * PAGE * 4)) for n, x in enumerate(values)]
        for i in range(width):
            weight = isa.broadcast_f32(p, i * PAGE * 4)
            for n in range(registers):
                total[i * registers + n] = isa.fma(weight, values[n], total[i * registers + n])
        return total

    def save(isa: Any, total: list, out: Any, stride: Any) -> Sequence:
        for i in range(width):
            for n in range(registers):
                isa.store_f32(out, total[i * registers + n], 64 * n)
            out = isa.b.add(out, stride)
        return total

    zero, load_out, position, store = (
        zeros(count),
        unrolled(begin, count, i64, i64, i64),
        unrolled(multiply, count, i64, i64, i64, i64),
        unrolled(save, count, i64, i64),
    )

    @jit
    def run(p, v, row, scales, distance, padded, j0, j1, out, decay):
        total = load_out(zero(), out, padded * 4, decay)
        for j in range(j0, j1):
            total = position(total, p + j * 4, v + j * row, scales + j * 4, distance)
        store(total, out, padded * 4)

    return run


def weighted_sum(width: int, load: str, apart: int, ahead: int) -> Callable:
    """The weighted sum for all columns; a narrow chunk takes several registers of columns at once."""
    registers = max(n for n in (1, 2, 4) if n == 1 or n * width <= ISA.query_registers)
    many = value_columns(width, load, apart, registers, ahead)
    one = many if registers == 1 else value_columns(width, load, apart, 1, ahead)

    @jit
    def run(p, v, row, scales, distance, padded, j0, j1, out, decay):
        o = 0
        while o + 16 * registers <= padded:
            at = scales + o // GROUP * (PAGE * 4)
            many(p, v + o // 16 * apart, row, at, distance, padded, j0, j1, out + o * 4, decay)
            o += 16 * registers
        while o < padded:
            at = scales + o // GROUP * (PAGE * 4)
            one(p, v + o // 16 * apart, row, at, distance, padded, j0, j1, out + o * 4, decay)
            o += 16

    return run


@jit
def record_width(rows, wide):
    """The records in a tile of queries of a chunk: as many as the kernel that it runs on has rows."""
    width = QUERY_ROWS
    for narrower in WIDTHS:
        if not wide and rows <= narrower:
            width = narrower
    return width


@jit
def soften(rows, b0, b1, base, limits, masked, scores, top, sums, decay):
    """Scores to weights: mask, raise the running maxima `top`, add to the running `sums` (16 lanes for each row), and
    say by how much old sums decay.  Scores are logarithms to base 2."""
    before = load_f32(top)
    for r in range(rows):
        row, best = scores + r * PAGE * 4, splat(LOWEST)
        if masked:
            low, high = get_i64(limits + LIMIT * r), get_i64(limits + LIMIT * r + 8)
            for b in range(b0, b1, 16):
                s = within(load_f32(row + b * 4), base + b, low, high, MASKED)
                store_f32(row + b * 4, s)
                best = vmax(best, s)
        else:
            for b in range(b0, b1, 16):
                best = vmax(best, load_f32(row + b * 4))
        put_f32(top + 4 * r, max(get_f32(top + 4 * r), reduce_max(best)))
    store_f32(decay, exp2(sub(before, load_f32(top))))
    for r in range(rows):
        row, shift = scores + r * PAGE * 4, broadcast_f32(top + 4 * r)
        total = mul(load_f32(sums + 64 * r), broadcast_f32(decay + 4 * r))
        for b in range(b0, b1, 16):
            p = exp2(sub(load_f32(row + b * 4), shift))
            store_f32(row + b * 4, p)
            total = add(total, p)
        store_f32(sums + 64 * r, total)


def chunk_kernel(score: Callable, value: Callable) -> Callable:
    """One page for one chunk, of the scores and the weighted sum of one width."""

    @jit
    def run(rows, q, k, v, row, scales, following, d, padded, b0, b1, base, limits, masked, bends, scores, top, out,
            decay):  # fmt: skip
        score(q, k, v, d, b0, b1, scores)
        if bends != 0:
            bend(rows, b0, b1, base, limits, bends, scores)
        soften(rows, b0, b1, base, limits, masked, scores, top, top + 64, decay)
        value(scores, v, row, scales, following - v, padded, b0, b1, out, decay)

    return run


def wide_kernel(cache: Cache) -> Callable:
    """For a page whose V, and but for q8 also K, are floats already, V as [D' / 16][PAGE][16]."""
    score = score_codes(QUERY_ROWS, False) if cache.name == "q8" else score_floats(QUERY_ROWS, "load_f32", 4, False)
    return chunk_kernel(score, weighted_sum(QUERY_ROWS, "load_f32", PAGE * 64, 0))


def narrow_kernel(cache: Cache, widths: Sequence[int] = WIDTHS) -> Callable:
    """For a page as it lies in the cache: in the narrowest of `widths` that holds the rows."""
    width, load, size = widths[0], LOADS[cache.name], cache.size
    score = score_codes(width, True) if cache.name == "q8" else score_floats(width, load, size, True)
    here = chunk_kernel(score, weighted_sum(width, load, 16 * size, 64 // size))
    if len(widths) == 1:
        return here
    narrower, limit = narrow_kernel(cache, widths[1:]), widths[1]

    @jit
    def run(rows, q, k, v, row, scales, following, d, padded, b0, b1, base, limits, masked, bends, scores, top, out,
            decay):  # fmt: skip
        if rows > limit:
            here(rows, q, k, v, row, scales, following, d, padded, b0, b1, base, limits, masked, bends, scores, top,
                 out, decay)  # fmt: skip
        else:
            narrower(rows, q, k, v, row, scales, following, d, padded, b0, b1, base, limits, masked, bends, scores, top,
                     out, decay)  # fmt: skip

    return run
