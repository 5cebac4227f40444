"""y = softmax(q k^T * scale) v over the cache, page by page with a running maximum (Dao et al. 2022).

A work item is a tile of tokens of one sequence and one key/value head, with all query heads that share it: `rows`
query rows.  Up to QUERY_ROWS of them, a chunk, share each register of keys and values.  K lies as registers of 16
positions of one column, so scores need no horizontal sum; V lies as rows, so neither does the weighted sum.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .common import F0, F1, at, get_f32, take
from .layout import (
    COUNTS,
    MAX_PARTS,
    MAX_QUERY_ROWS,
    PAGE,
    PART_PAGES,
    PARTIALS,
    POSITIONS,
    SCRATCH,
    SCRATCH_STRIDE,
    SLOTS,
    SPLIT_ITEMS,
    TILES,
)
from .ops import field
from .rope import page_of
from .simd.words import (
    ISA,
    add,
    atomic_add,
    atomic_store,
    exp,
    fma,
    get_i64,
    i64,
    jit,
    lane,
    load_f32,
    mul,
    put_f32,
    put_i64,
    reduce_add,
    reduce_max,
    splat,
    store_f32,
    store_f32_some,
    sub,
    unrolled,
    vmax,
    within,
    zeros,
)

ROW_FIELDS = ("q", "ldq", "y", "ldy", "heads", "kv_heads", "head_dim", "scale", "window", "layer")
LOWEST, MASKED = np.float32(-1e30), np.float32(-3e30)  # e^(MASKED - LOWEST) is 0, also where a whole row is masked
QUERY_ROWS = ISA.query_rows[0]  # query rows of a chunk
SCORES = MAX_QUERY_ROWS * PAGE * 4  # bytes of a chunk's scores


@jit
def vector_exp(x):
    return lane(exp(splat(x)), 0)


def score_chunk(width: int, size: int) -> Callable:
    """Scores of `width` query rows against the positions b0..b1 of a page, in registers of 16.

    A narrow chunk takes several registers of positions at once, because an fma's result is four cycles away.  It may
    so compute scores past b1, but not past the page.  While K is read, the V that follows it is fetched (and with V
    the next page's K): the hardware does not foresee these jumps, which cost a third of the time of a long context.
    """
    load, registers = "load_f16" if size == 2 else "load_f32", max(1, QUERY_ROWS // width)

    def multiply(isa: Any, total: list, q: Any, k: Any, stride: Any, ahead: Any) -> Sequence:
        for n in range(registers):
            isa.prefetch(isa.b.add(k, ahead))
            keys = getattr(isa, load)(k)
            for i in range(width):
                total[n * width + i] = isa.fma(isa.broadcast_f32(q, 4 * i), keys, total[n * width + i])
            k = isa.b.add(k, stride)
        return total

    def save(isa: Any, total: list, scores: Any) -> Sequence:
        for n in range(registers):
            for i in range(width):
                isa.store_f32(scores, total[n * width + i], i * PAGE * 4 + n * 64)
        return total

    count, step = width * registers, 16 * registers
    zero, column, store = zeros(count), unrolled(multiply, count, i64, i64, i64, i64), unrolled(save, count, i64)

    @jit
    def run(q, k, v, d, b0, b1, scores):
        for b in range(b0 // step * step, b1, step):
            total, keys = zero(), k + b * d * size
            for i in range(d):
                total = column(total, q + i * QUERY_ROWS * 4, keys + i * 16 * size, d * 16 * size, v - k)
            store(total, scores + b * 4)

    return run


def value_columns(width: int, size: int, registers: int) -> Callable:
    """out[row] = out[row] * decay[row] + sum over positions j0..j1 of p[row, j] v[j], for 16 x `registers` columns."""
    load, count = "load_f16" if size == 2 else "load_f32", width * registers

    def begin(isa: Any, total: list, out: Any, stride: Any, decay: Any) -> Sequence:
        for i in range(width):
            for n in range(registers):
                total[i * registers + n] = isa.mul(isa.load_f32(out, 64 * n), isa.broadcast_f32(decay, 4 * i))
            out = isa.b.add(out, stride)
        return total

    def multiply(isa: Any, total: list, p: Any, v: Any, ahead: Any) -> Sequence:
        for n in range(0, registers, 2):
            isa.prefetch(isa.b.add(v, ahead), 16 * size * n)
        values = [getattr(isa, load)(v, 16 * size * n) for n in range(registers)]
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
        unrolled(multiply, count, i64, i64, i64),
        unrolled(save, count, i64, i64),
    )

    @jit
    def run(p, v, ahead, padded, j0, j1, out, decay):
        total = load_out(zero(), out, padded * 4, decay)
        for j in range(j0, j1):
            total = position(total, p + j * 4, v + j * padded * size, ahead)
        store(total, out, padded * 4)

    return run


def value_chunk(width: int, size: int) -> Callable:
    """The weighted sum for all columns; a narrow chunk takes several registers of columns at once."""
    registers = max(1, min(4, QUERY_ROWS // width))
    many, one = value_columns(width, size, registers), value_columns(width, size, 1)

    @jit
    def run(p, v, ahead, padded, j0, j1, out, decay):
        o = 0
        while o + 16 * registers <= padded:
            many(p, v + o * size, ahead, padded, j0, j1, out + o * 4, decay)
            o += 16 * registers
        while o < padded:
            one(p, v + o * size, ahead, padded, j0, j1, out + o * 4, decay)
            o += 16

    return run


@jit
def soften(scores, b0, b1, base, low, high, state, decay):
    """Scores of one row to weights: mask, raise the running maximum and sum in `state`, and say how old sums decay."""
    top = splat(LOWEST)
    for b in range(b0, b1, 16):
        s = within(load_f32(scores + b * 4), base + b, low, high, MASKED)
        store_f32(scores + b * 4, s)
        top = vmax(top, s)
    old = get_f32(state)
    new = max(old, reduce_max(top))
    shift, total = splat(new), splat(F0)
    for b in range(b0, b1, 16):
        p = exp(sub(load_f32(scores + b * 4), shift))
        store_f32(scores + b * 4, p)
        total = add(total, p)
    shrink = vector_exp(old - new)
    put_f32(decay, shrink)
    put_f32(state, new)
    put_f32(state + 4, get_f32(state + 4) * shrink + reduce_add(total))


def chunk_kernel(size: int) -> Callable:
    """One page for one chunk of query rows: scores, weights, weighted sum, in the narrowest width that holds them."""

    def at_width(width: int) -> Callable:
        score, value = score_chunk(width, size), value_chunk(width, size)

        @jit
        def run(rows, q, k, v, following, d, padded, b0, b1, base, limits, scores, state, out, decay):
            score(q, k, v, d, b0, b1, scores)
            for r in range(width):
                put_f32(decay + 4 * r, F1)
            for r in range(rows):
                low, high = get_i64(limits + 16 * r), get_i64(limits + 16 * r + 8)
                soften(scores + r * PAGE * 4, b0, b1, base, low, high, state + 8 * r, decay + 4 * r)
            value(scores, v, following - v, padded, b0, b1, out, decay)

        return run

    def choose(widths: Sequence[int]) -> Callable:
        here = at_width(widths[0])
        if len(widths) == 1:
            return here
        narrower, limit = choose(widths[1:]), widths[1]

        @jit
        def run(rows, q, k, v, following, d, padded, b0, b1, base, limits, scores, state, out, decay):
            if rows > limit:
                here(rows, q, k, v, following, d, padded, b0, b1, base, limits, scores, state, out, decay)
            else:
                narrower(rows, q, k, v, following, d, padded, b0, b1, base, limits, scores, state, out, decay)

        return run

    return choose(ISA.query_rows)


@jit
def places(scratch, chunks, d, padded):
    """Where a thread's scratch keeps scores, decays, limits, queries, outputs and running (maximum, sum)."""
    decay = scratch + SCORES
    limits = decay + 64
    q = limits + 16 * MAX_QUERY_ROWS
    out = q + chunks * QUERY_ROWS * 4 * d
    return scratch, decay, limits, q, out, out + chunks * QUERY_ROWS * 4 * padded


@jit
def load_queries(source, ldq, group, rows, d, scale, q):
    """The tile's query rows, scaled, transposed to [chunk][D][QUERY_ROWS]; rows that are not there are zeros."""
    for r in range((rows + QUERY_ROWS - 1) // QUERY_ROWS * QUERY_ROWS):
        x = source + (r // group * ldq + r % group * d) * 4
        to = q + r // QUERY_ROWS * (QUERY_ROWS * d * 4) + r % QUERY_ROWS * 4
        for i in range(d):
            put_f32(to + i * QUERY_ROWS * 4, get_f32(x + i * 4) * scale if r < rows else F0)


@jit
def store_outputs(out, state, target, ldy, group, rows, d, padded):
    """out / sum of weights, to where the heads lie in y."""
    for r in range(rows):
        y = target + (r // group * ldy + r % group * d) * 4
        share = splat(F1 / get_f32(state + 8 * r + 4))
        for i in range(0, d, 16):
            store_f32_some(y + i * 4, mul(load_f32(out + (r * padded + i) * 4), share), d - i)


@jit
def seen(positions, token, window):
    """The first position that a token of the tile sees."""
    return max(0, get_i64(positions + 8 * token) - window + 1) if window > 0 else 0


@jit
def clear(out, state, chunks, padded):
    """Empty sums and running maxima."""
    for i in range(0, chunks * QUERY_ROWS * padded * 4, 64):
        store_f32(out + i, splat(F0))
    for r in range(chunks * QUERY_ROWS):
        put_f32(state + 8 * r, LOWEST)
        put_f32(state + 8 * r + 4, F0)


@jit
def parts_of(context, items, window):
    """Into how many parts the pages of each item are split: by the longest item, and not by the threads, so that any
    number of threads gives the same result."""
    tiles, count = at(context, TILES), get_i64(at(context, COUNTS) + 16)
    if items >= SPLIT_ITEMS or get_i64(at(context, COUNTS)) != count or at(context, PARTIALS) == 0:
        return 1
    pages = 0
    for i in range(count):
        positions = at(context, POSITIONS) + 8 * get_i64(tiles + 16 * i)
        pages = max(pages, get_i64(positions) // PAGE - seen(positions, 0, window) // PAGE + 1)
    return min(MAX_PARTS, (pages + PART_PAGES - 1) // PART_PAGES)


@jit
def partial(context, item, part, parts, chunks, padded):
    """Where a part keeps its sums, and its running (maximum, sum)."""
    rows = chunks * QUERY_ROWS
    out = at(context, PARTIALS) + 8 * SPLIT_ITEMS + (item * parts + part) * rows * 4 * (padded + 2)
    return out, out + rows * 4 * padded


@jit
def merge(final, final_state, out, state, rows, padded):
    """Add the sums of one part to those of the parts before it, each scaled to the larger maximum."""
    for r in range(rows):
        old, new = get_f32(final_state + 8 * r), get_f32(state + 8 * r)
        top = max(old, new)
        keep, more = vector_exp(old - top), vector_exp(new - top)
        put_f32(final_state + 8 * r, top)
        put_f32(final_state + 8 * r + 4, get_f32(final_state + 8 * r + 4) * keep + get_f32(state + 8 * r + 4) * more)
        a, b = splat(keep), splat(more)
        for i in range(r * padded * 4, (r + 1) * padded * 4, 64):
            store_f32(final + i, fma(load_f32(final + i), a, mul(load_f32(out + i), b)))


def attention(size: int) -> Callable:
    """The kernel for a cache whose values take `size` bytes."""
    op = f"attention_f{8 * size}"
    Q, LDQ, Y, LDY, HEADS, KV_HEADS, HEAD_DIM, SCALE, WINDOW, LAYER = (field(op, f) for f in ROW_FIELDS)
    run_chunk = chunk_kernel(size)

    @jit
    def one(row, context, thread, item, part, parts):
        d, kv_heads = at(row, HEAD_DIM), at(row, KV_HEADS)
        tile, g = at(context, TILES) + item // kv_heads * 16, item % kv_heads
        first, tokens = get_i64(tile), get_i64(tile + 8)
        group, padded, window = at(row, HEADS) // kv_heads, (d + 15) // 16 * 16, at(row, WINDOW)
        rows = tokens * group
        chunks = (rows + QUERY_ROWS - 1) // QUERY_ROWS
        scratch = at(context, SCRATCH) + thread * at(context, SCRATCH_STRIDE)
        scores, decay, limits, q, final, final_state = places(scratch, chunks, d, padded)
        out, state = final, final_state
        if parts > 1:
            out, state = partial(context, item, part, parts, chunks, padded)
        positions, slot = at(context, POSITIONS) + 8 * first, get_i64(at(context, SLOTS) + 8 * first)
        load_queries(at(row, Q) + (first * at(row, LDQ) + g * group * d) * 4, at(row, LDQ), group, rows, d,
                     get_f32(row + SCALE), q)  # fmt: skip
        clear(out, state, chunks, padded)
        start, last = seen(positions, 0, window), get_i64(positions + 8 * (tokens - 1))
        share = (last // PAGE - start // PAGE + parts) // parts
        page = start // PAGE + part * share
        for base in range(page * PAGE, min(last + 1, (page + share) * PAGE), PAGE):
            k = page_of(context, slot, base, at(row, LAYER)) + g * PAGE * (d + padded) * size
            b0, b1 = max(0, start - base) // 16 * 16, min(PAGE, last + 1 - base)
            following = k
            if base + PAGE <= last:
                following = page_of(context, slot, base + PAGE, at(row, LAYER)) + g * PAGE * (d + padded) * size
            for c in range(chunks):
                here = min(QUERY_ROWS, rows - c * QUERY_ROWS)
                for r in range(here):
                    token = (c * QUERY_ROWS + r) // group
                    put_i64(limits + 16 * r, seen(positions, token, window))
                    put_i64(limits + 16 * r + 8, get_i64(positions + 8 * token))
                o = c * QUERY_ROWS * 4
                run_chunk(here, q + o * d, k, k + PAGE * d * size, following, d, padded, b0, b1, base, limits, scores,
                          state + 2 * o, out + o * padded, decay)  # fmt: skip
        if parts > 1:
            if atomic_add(at(context, PARTIALS) + 8 * item, 1) + 1 < parts:
                return
            atomic_store(at(context, PARTIALS) + 8 * item, 0)
            clear(final, final_state, chunks, padded)
            for i in range(parts):
                out, state = partial(context, item, i, parts, chunks, padded)
                merge(final, final_state, out, state, rows, padded)
        y = at(row, Y) + (first * at(row, LDY) + g * group * d) * 4
        store_outputs(final, final_state, y, at(row, LDY), group, rows, d, padded)

    @jit
    def kernel(row, context, thread):
        items = get_i64(at(context, COUNTS) + 16) * at(row, KV_HEADS)
        parts = parts_of(context, items, at(row, WINDOW))
        while True:
            i = take(row, context, 1)
            if i >= items * parts:
                break
            one(row, context, thread, i // parts, i % parts, parts)

    return kernel


KERNELS = {"attention_f16": lambda: attention(2), "attention_f32": lambda: attention(4)}
