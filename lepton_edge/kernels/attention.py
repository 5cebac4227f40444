"""y = softmax(q k^T * scale) v over the cache, page by page with a running maximum (Dao et al. 2022).

A work item is a tile of tokens of one sequence and one key/value head, with all query heads that share it: `rows`
query rows, in chunks (see `attention_chunk.py`).  Of single tokens over long caches, items are split into parts.
"""

from collections.abc import Callable
from functools import partial as bind
from typing import Any

from .attention_bias import LOG2E, start_bends, start_row_bends
from .attention_chunk import LOWEST, QUERY_ROWS, narrow_kernel, record_width, wide_kernel
from .cache import Cache, cache, groups_of, page_of
from .common import F0, F1, at, count, get_f32, quantize_group, quantize_row, scratch_of, small, take
from .layout import (
    BENDS,
    COUNTS,
    ENDS,
    GROUP,
    LIMIT,
    MAX_PARTS,
    MAX_QUERY_ROWS,
    MEMORY_ENDS,
    MEMORY_SLOTS,
    PAGE,
    PART_PAGES,
    PARTIALS,
    POSITIONS,
    RECORD,
    SLOTS,
    SPLIT_ITEMS,
    STATE,
    TILES,
)
from .ops import CAUSAL, MEMORY, WHOLE, field
from .rope import (
    HEAD_DIM,
    HEADS,
    KV_HEADS,
    LAYER,
    LDQ,
    Q_NORM,
    Q_STEP,
    ROPE_DIM,
    TABLE,
    Q,
    copy,
    store_kernel,
    turn,
)
from .simd.portable import LANES, VF, constant
from .simd.words import (
    atomic_add,
    atomic_store,
    broadcast_f32,
    div,
    exp2,
    fma,
    get_i64,
    i64,
    jit,
    lane,
    load_f16,
    load_f32,
    load_f32_some,
    load_i8,
    mul,
    put_f32,
    put_i64,
    reduce_add,
    splat,
    store_f32,
    store_f32_some,
    void,
    word,
)

Y, LDY, SCALE, WINDOW, RECORDS, SINKS, SIGHT = (
    field("attention_f32", f) for f in ("y", "ldy", "scale", "window", "records", "sinks", "sight")
)
NARROW_ROWS = 2 * QUERY_ROWS  # query rows up to which a page is read as it is
CHUNK_STATE = QUERY_ROWS * STATE  # maxima of the rows in 64 bytes, then 16 lanes of sums for each


# -- a thread's scratch -----------------------------------------------------------------------------------------------


@jit
def places(scratch, chunks, padded):
    """Where a thread's scratch keeps scores, decays, limits, bends, a page's keys, values and scales as floats,
    queries, outputs and running state."""
    decay = scratch + MAX_QUERY_ROWS * PAGE * 4
    limits = decay + 64
    bends = limits + LIMIT * MAX_QUERY_ROWS
    keys = bends + BENDS
    values = keys + PAGE * padded * 4
    scales = values + PAGE * padded * 4
    q = scales + padded // GROUP * PAGE * 4
    out = q + chunks * QUERY_ROWS * 4 * padded
    return scratch, decay, limits, bends, keys, values, scales, q, out, out + chunks * QUERY_ROWS * 4 * padded


def _turn(isa: Any, x: Any, target: Any) -> None:
    """QUERY_ROWS rows of 16 floats at x to `target`, as 16 rows of QUERY_ROWS floats."""
    rows = [isa.load_f32(x, 64 * r) for r in range(QUERY_ROWS)]
    rows += [constant(0.0, VF)] * (LANES - QUERY_ROWS)
    for i, column in enumerate(isa.transpose(rows)):
        isa.store(target, 4 * QUERY_ROWS * i, isa.pick(column, column, range(QUERY_ROWS)))


transposed = word(_turn, void, i64, i64)


@jit
def load_floats(source, ldq, group, rows, d, scale, q, scratch):
    """The tile's query rows, scaled, transposed to [chunk][D][QUERY_ROWS]; rows that are not there are zeros.

    `scratch`: room for QUERY_ROWS rows.
    """
    factor, whole = splat(scale), d // 16 * 16
    for r in range((rows + QUERY_ROWS - 1) // QUERY_ROWS * QUERY_ROWS):
        x = source + (r // group * ldq + r % group * d) * 4
        chunk, i = q + r // QUERY_ROWS * (QUERY_ROWS * d * 4), r % QUERY_ROWS
        for c in range(0, whole, 16):
            here = mul(load_f32(x + c * 4), factor) if r < rows else splat(F0)
            store_f32(scratch + (c * QUERY_ROWS + i * 16) * 4, here)
        for c in range(whole, d):
            put_f32(chunk + (c * QUERY_ROWS + i) * 4, get_f32(x + c * 4) * scale if r < rows else F0)
        if i == QUERY_ROWS - 1:
            for c in range(0, whole, 16):
                transposed(scratch + c * QUERY_ROWS * 4, chunk + c * QUERY_ROWS * 4)


@jit
def load_records(source, ldq, group, rows, d, scale, q, scratch):
    """The same as int8 groups of 32, as activations are: [chunk][groups] tiles of records."""
    groups, factor, wide = groups_of(d), splat(scale), rows > NARROW_ROWS
    for r in range((rows + QUERY_ROWS - 1) // QUERY_ROWS * QUERY_ROWS):
        width = record_width(min(QUERY_ROWS, rows - r // QUERY_ROWS * QUERY_ROWS), wide)
        if r % QUERY_ROWS >= width:
            continue
        x = source + (r // group * ldq + r % group * d) * 4
        to = q + r // QUERY_ROWS * (groups * QUERY_ROWS * RECORD)
        left = d if r < rows else 0
        for i in range(0, groups * GROUP, 16):
            store_f32(scratch + i * 4, mul(load_f32_some(x + i * 4, left - i), factor))
        for g in range(groups):
            quantize_group(scratch + g * GROUP * 4, to + g * width * RECORD, r % QUERY_ROWS, width)


@jit
def clear(out, state, chunks, padded):
    """Empty sums and running maxima."""
    for i in range(0, chunks * QUERY_ROWS * padded * 4, 64):
        store_f32(out + i, splat(F0))
    for c in range(chunks):
        store_f32(state + c * CHUNK_STATE, splat(LOWEST))
        for r in range(QUERY_ROWS):
            store_f32(state + c * CHUNK_STATE + 64 + 64 * r, splat(F0))


@jit
def state_of(state, r):
    """Addresses of the running maximum and sums of row r."""
    chunk, i = state + r // QUERY_ROWS * CHUNK_STATE, r % QUERY_ROWS
    return chunk + 4 * i, chunk + 64 + 64 * i


@jit
def shrink(old, new):
    """2^(old - new) in all lanes."""
    return splat(lane(exp2(splat(old - new)), 0))


@jit
def share_of(state, r, sink):
    """What row r's sums are to be multiplied with: 1 / sum of weights, to which the sink's weight counts, where there
    is one."""
    top, sums = state_of(state, r)
    total = reduce_add(load_f32(sums))
    if sink == 0:
        return splat(F1 / total)
    old, score = get_f32(top), get_f32(sink) * LOG2E
    new = max(old, score)
    keep = shrink(old, new)
    return div(keep, fma(splat(total), keep, shrink(score, new)))


@jit
def store_outputs(out, state, target, ldy, group, rows, d, padded, sinks):
    """out / sum of weights, to where the heads lie in y."""
    for r in range(rows):
        y = target + (r // group * ldy + r % group * d) * 4
        share = share_of(state, r, sinks + r % group * 4 if sinks != 0 else 0)
        for i in range(0, d, 16):
            store_f32_some(y + i * 4, mul(load_f32(out + (r * padded + i) * 4), share), d - i)


# -- pages ------------------------------------------------------------------------------------------------------------


@jit
def seen(positions, token, window):
    """The first position that a token of the tile sees."""
    return max(0, get_i64(positions + 8 * token) - window + 1) if window > 0 else 0


@jit
def last_seen(positions, ends, token, window):
    """The last one: `ends` says where the tokens' sequences end, or for causal attention where the tokens are."""
    end = get_i64(ends + 8 * token)
    return min(end, get_i64(positions + 8 * token) + window - 1) if window > 0 else end


@jit
def ends_of(context, sight):
    """The last position that each token of the batch may see, but for a window."""
    if sight == CAUSAL:
        return at(context, POSITIONS)
    return at(context, ENDS) if sight == WHOLE else at(context, MEMORY_ENDS)


@jit
def no_scales(v, row, d, scales):
    pass


@jit
def widen_scales(v, row, d, scales):
    """The scales of a page's V as floats."""
    for i in range(0, groups_of(d) * PAGE, 16):
        store_f32(scales + i * 4, load_f16(v + PAGE * row + i * 2))


def widen(kind: Cache) -> Callable:
    """Positions b0..b1 of a page as floats, V in slices of 16 columns; -> the addresses to read K and V from."""
    load, codes, size = load_f32 if kind.name == "f32" else load_f16, kind.name == "q8", kind.size

    @jit
    def value(v, scale):
        return load(v)

    @jit
    def value_of_code(v, scale):
        return mul(load_i8(v), broadcast_f32(scale))

    @jit
    def keys_as_floats(k, d, b0, b1, keys):
        for i in range(b0 * d, (b1 + 15) // 16 * 16 * d, 16):
            store_f32(keys + i * 4, load(k + i * size))
        return keys

    @jit
    def keys_as_codes(k, d, b0, b1, keys):
        return k

    read, read_keys = (value_of_code, keys_as_codes) if codes else (value, keys_as_floats)

    @jit
    def run(k, v, row, d, padded, b0, b1, keys, values, scales):
        for o in range(0, padded, 16):
            scale, to = scales + o // GROUP * (PAGE * 4), values + o * (PAGE * 4)
            for j in range(b0, b1):
                store_f32(to + j * 64, read(v + j * row + o * size, scale + j * 4))
        return read_keys(k, d, b0, b1, keys), values

    return run


# -- parts ------------------------------------------------------------------------------------------------------------


@jit
def parts_of(context, items, sight, window):
    """Into how many parts the pages of each item are split: by the longest item, and not by the threads, so that any
    number of threads gives the same result."""
    tiles, count = at(context, TILES), get_i64(at(context, COUNTS) + 16)
    if items >= SPLIT_ITEMS or get_i64(at(context, COUNTS)) != count or at(context, PARTIALS) == 0:
        return 1
    pages = 0
    for i in range(count):
        first = 8 * get_i64(tiles + 16 * i)
        positions, ends = at(context, POSITIONS) + first, ends_of(context, sight) + first
        pages = max(pages, last_seen(positions, ends, 0, window) // PAGE - seen(positions, 0, window) // PAGE + 1)
    return min(MAX_PARTS, (pages + PART_PAGES - 1) // PART_PAGES)


@jit
def partial(context, item, part, parts, chunks, padded):
    """Where a part keeps its sums, and its running state."""
    rows = chunks * QUERY_ROWS
    out = at(context, PARTIALS) + 8 * SPLIT_ITEMS + (item * parts + part) * rows * (4 * padded + STATE)
    return out, out + rows * 4 * padded


@jit
def merge(final, final_state, out, state, rows, padded):
    """Add the sums of one part to those of the parts before it, each scaled to the larger maximum."""
    for r in range(rows):
        final_top, final_sums = state_of(final_state, r)
        part_top, part_sums = state_of(state, r)
        old, new = get_f32(final_top), get_f32(part_top)
        top = max(old, new)
        keep, more = shrink(old, top), shrink(new, top)
        put_f32(final_top, top)
        store_f32(final_sums, fma(load_f32(final_sums), keep, mul(load_f32(part_sums), more)))
        for i in range(r * padded * 4, (r + 1) * padded * 4, 64):
            store_f32(final + i, fma(load_f32(final + i), keep, mul(load_f32(out + i), more)))


# -- the kernel --------------------------------------------------------------------------------------------------------


def rope_kernel(name: str) -> Callable:
    """A small step's part of `rope`: one token's queries that share a key head, and that head's key and value."""
    store_head = store_kernel(name)

    @jit
    def run(row, context, t, g, group, position, slot, newest, target):
        """Rotate the queries into `target`; `newest`: store the key and the value."""
        d, angles = at(row, HEAD_DIM), at(row, TABLE) + position * at(row, ROPE_DIM) * 4
        if newest:
            page = page_of(context, slot, position, at(row, LAYER))
            store_head(row, page, t, g, position, angles, target)
        q = at(row, Q) + (t * at(row, LDQ) + g * at(row, Q_STEP)) * 4
        for h in range(group):
            copy(q + h * d * 4, target + h * d * 4, d)
            turn(row, target + h * d * 4, Q_NORM, g * group + h, angles)

    return run


def page_kernel(name: str) -> Callable:
    """All chunks of query rows of an item over one page, whose first position is `base`."""
    kind = cache(name)
    narrow, wide, as_floats = narrow_kernel(kind), wide_kernel(kind), widen(kind)
    size, row_bytes, read_scales = kind.size, kind.row, widen_scales if name == "q8" else no_scales

    @jit
    def run(k, v, following, base, d, group, rows, positions, ends, last, row, token, head, q, chunk_bytes, out, state,
            scratch):  # fmt: skip
        scores, decay, limits, bends, keys, values, scales = scratch
        v_row, window = row_bytes(d), at(row, WINDOW)
        padded = v_row // size
        read_scales(v, v_row, d, scales)
        if rows > NARROW_ROWS:
            start = max(0, seen(positions, 0, window) - base) // 16 * 16
            k, v = as_floats(k, v, v_row, d, padded, start, min(PAGE, last + 1 - base), keys, values, scales)
        for c in range((rows + QUERY_ROWS - 1) // QUERY_ROWS):
            here = min(QUERY_ROWS, rows - c * QUERY_ROWS)
            t0, t1 = c * QUERY_ROWS // group, (c * QUERY_ROWS + here - 1) // group
            low, high = seen(positions, t0, window), last_seen(positions, ends, t1, window)
            b0, b1 = max(0, low - base) // 16 * 16, min(PAGE, high + 1 - base)
            if b0 >= b1:
                continue
            until = base + (b1 + 15) // 16 * 16
            masked = seen(positions, t1, window) > base + b0 or last_seen(positions, ends, t0, window) + 1 < until
            if masked or bends != 0:
                for r in range(here):
                    t = (c * QUERY_ROWS + r) // group
                    put_i64(limits + LIMIT * r, seen(positions, t, window))
                    put_i64(limits + LIMIT * r + 8, last_seen(positions, ends, t, window))
                    put_i64(limits + LIMIT * r + 16, get_i64(positions + 8 * t))
            if bends != 0:
                for r in range(here):
                    i = c * QUERY_ROWS + r
                    start_row_bends(row, bends, r, token + i // group, head + i % group)
            qc, sums, oc = q + c * chunk_bytes, state + c * CHUNK_STATE, out + c * QUERY_ROWS * 4 * padded
            if rows > NARROW_ROWS:
                wide(here, qc, k, v, 64, scales, v, d, padded, b0, b1, base, limits, masked, bends, scores, sums, oc,
                     decay)  # fmt: skip
            else:
                narrow(here, qc, k, v, v_row, scales, following, d, padded, b0, b1, base, limits, masked, bends, scores,
                       sums, oc, decay)  # fmt: skip

    return run


@jit
def merge_parts(context, item, parts, chunks, rows, padded, final, final_state):
    """Add up an item's parts, if all of them are done by now; -> whether they are."""
    counter = at(context, PARTIALS) + 8 * item
    if atomic_add(counter, 1) + 1 < parts:
        return False
    atomic_store(counter, 0)
    clear(final, final_state, chunks, padded)
    for i in range(parts):
        out, state = partial(context, item, i, parts, chunks, padded)
        merge(final, final_state, out, state, rows, padded)
    return True


def attention(name: str) -> Callable:
    """The kernel for a cache in f32, f16 or q8."""
    kind, rope, page_of_item = cache(name), rope_kernel(name), page_kernel(name)
    size, row_bytes, key_bytes, head_bytes = kind.size, kind.row, kind.keys, kind.head
    load_queries = load_records if name == "q8" else load_floats
    query_bytes = RECORD if name == "q8" else 4  # of a query row, for a group or for a column

    @jit
    def one(row, context, thread, item, part, parts):
        d, kv_heads, window, ldq, sight = (
            at(row, HEAD_DIM), at(row, KV_HEADS), at(row, WINDOW), at(row, LDQ), at(row, SIGHT),
        )  # fmt: skip
        tile, g, group = at(context, TILES) + item // kv_heads * 16, item % kv_heads, at(row, HEADS) // kv_heads
        first, tokens = get_i64(tile), get_i64(tile + 8)
        padded, rows = row_bytes(d) // size, tokens * group
        chunks = (rows + QUERY_ROWS - 1) // QUERY_ROWS
        scratch = scratch_of(context, thread)
        scores, decay, limits, bends, keys, values, scales, q, final, final_state = places(
            scratch, chunks, groups_of(d) * GROUP
        )
        sinks = at(row, SINKS) + g * group * 4 if at(row, SINKS) != 0 else 0
        out, state = final, final_state
        if parts > 1:
            out, state = partial(context, item, part, parts, chunks, padded)
        positions, ends = at(context, POSITIONS) + 8 * first, ends_of(context, sight) + 8 * first
        slot = get_i64(at(context, MEMORY_SLOTS if sight == MEMORY else SLOTS) + 8 * first)
        start, last = seen(positions, 0, window), last_seen(positions, ends, tokens - 1, window)
        if not start_bends(row, bends, g * group, first - get_i64(positions)):
            bends = 0
        share = (last // PAGE - start // PAGE + parts) // parts
        page = start // PAGE + part * share
        queries = at(row, Q) + (first * ldq + g * at(row, Q_STEP)) * 4
        if small(context):
            queries = final  # nothing lies there yet
            newest = sight != MEMORY and page <= last // PAGE < page + share
            rope(row, context, first, g, group, last, slot, newest, queries)
        load_queries(queries, ldq, group, rows, d, get_f32(row + SCALE) * LOG2E, q, keys)
        chunk_bytes = QUERY_ROWS * query_bytes * (groups_of(d) if query_bytes == RECORD else d)
        clear(out, state, chunks, padded)
        for base in range(page * PAGE, min(last + 1, (page + share) * PAGE), PAGE):
            k = page_of(context, slot, base, at(row, LAYER)) + g * head_bytes(d)
            following = k
            if base + PAGE <= last:
                following = page_of(context, slot, base + PAGE, at(row, LAYER)) + g * head_bytes(d)
            page_of_item(k, k + key_bytes(d), following, base, d, group, rows, positions, ends, last, row, first,
                         g * group, q, chunk_bytes, out, state,
                         (scores, decay, limits, bends, keys, values, scales))  # fmt: skip
        if parts > 1 and not merge_parts(context, item, parts, chunks, rows, padded, final, final_state):
            return
        y = at(row, Y) + (first * at(row, LDY) + g * group * d) * 4
        store_outputs(final, final_state, y, at(row, LDY), group, rows, d, padded, sinks)
        if at(row, RECORDS) != 0:  # then the columns of this item are whole groups
            groups, here = at(row, HEADS) * d // GROUP, group * d // GROUP
            for t in range(first, first + tokens):
                y = at(row, Y) + t * at(row, LDY) * 4
                quantize_row(y, at(row, RECORDS), groups, g * here, (g + 1) * here, t, count(row, context))

    @jit
    def kernel(row, context, thread):
        items = get_i64(at(context, COUNTS) + 16) * at(row, KV_HEADS)
        parts = parts_of(context, items, at(row, SIGHT), at(row, WINDOW))
        while True:
            i = take(row, context, 1)
            if i >= items * parts:
                break
            i = items * parts - 1 - i  # the last tiles of a prompt are the longest, so they come first
            one(row, context, thread, i // parts, i % parts, parts)

    return kernel


KERNELS = {f"attention_{name}": bind(attention, name) for name in ("f16", "f32", "q8")}
