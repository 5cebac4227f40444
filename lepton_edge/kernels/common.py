"""What every kernel needs: fields of its row, its share of the work, the layout of quantized activations."""

from collections.abc import Callable

import numpy as np

from .layout import CANCEL, COUNTS, GROUP, RECORD, SCRATCH, SCRATCH_STRIDE, SYNC, THREADS
from .ops import COUNT, COUNTER
from .simd.words import (
    ISA,
    add_i32,
    atomic_add,
    atomic_load,
    get_f32,
    get_i64,
    jit,
    largest,
    load_f32,
    mul,
    put_f32,
    put_i32,
    reduce_add_i32,
    round_i32,
    splat,
    store_i8,
)

F0, F1 = np.float32(0), np.float32(1)
TINY = np.float32(1e-30)  # a group below this is zero: 127 divided by it would overflow
WIDTHS = tuple(tokens for tokens, _ in ISA.tiles)  # tokens in a tile, widest first; the last is 1
GRID, GRID_TOKENS = ISA.grid, ISA.grid_tokens

@jit
def at(row, field):
    """An int64 field of a row or of the context."""
    return get_i64(row + field)


@jit
def count(row, context):
    """How many tokens this op runs over."""
    return get_i64(get_i64(context + COUNTS) + get_i64(row + 8 * COUNT) * 8)


@jit
def scratch_of(context, thread):
    """The thread's own memory."""
    return get_i64(context + SCRATCH) + thread * get_i64(context + SCRATCH_STRIDE)


@jit
def small(context):
    """Whether this is a small step (see `layout.SMALL`)."""
    return get_i64(get_i64(context + COUNTS) + 24) != 0


@jit
def copy_of(row, own, context, thread):
    """The number of a thread's own copy of activations, where `own` says that there are such; 0 for the shared one."""
    return thread if at(row, own) != 0 and small(context) else 0


@jit
def take(row, context, chunk):
    """The start of the next `chunk` items of this op's work; a huge number once it is cancelled."""
    if atomic_load(get_i64(context + SYNC) + CANCEL) != 0:
        return 1 << 60
    return atomic_add(row + 8 * COUNTER, chunk)


def each_token(body: Callable) -> Callable:
    """A kernel that shares out the tokens: `body(row, context, thread, t, tokens)` for each token t of the batch.

    A thread takes so many at once that it comes back about eight times: the counter is contended, and not free.
    """

    @jit
    def kernel(row, context, thread):
        tokens = count(row, context)
        share = max(1, tokens // (get_i64(context + THREADS) * 8))
        while True:
            first = take(row, context, share)
            if first >= tokens:
                break
            for t in range(first, min(tokens, first + share)):
                body(row, context, thread, t, tokens)

    return kernel


@jit
def tile_of(t, tokens):
    """(first token, width) of the tile that holds token t of a batch of `tokens`.

    A batch is cut into as many of the widest tiles as fit, then the next narrower, down to single tokens, so no
    tile is padded and the records of a tile start at first * groups * RECORD whatever its width.
    """
    first, width = 0, 1
    for w in WIDTHS:
        if GRID and w == WIDTHS[0] and tokens < GRID_TOKENS:
            continue
        full = (tokens - first) // w * w
        width = w
        if t < first + full:
            break
        first += full
    return first + (t - first) // width * width, width


@jit
def quantize_group(x, record, i, width):
    """32 floats at `x` into row i of a tile of `width` int8 records."""
    low, high = load_f32(x), load_f32(x + 64)
    top = largest(low, high)  # NaN and infinity show in the scale
    inverse = splat(np.float32(127.0) / top if top > TINY else F0)
    a, b = round_i32(mul(low, inverse)), round_i32(mul(high, inverse))
    store_i8(record + i * GROUP, a)
    store_i8(record + i * GROUP + 16, b)
    put_f32(record + width * 32 + i * 4, top * np.float32(1 / 127))
    put_i32(record + width * 36 + i * 4, -8 * reduce_add_i32(add_i32(a, b)))


@jit
def quantize_row(x, records, groups, g0, g1, t, tokens):
    """Groups g0..g1 of token t's row at `x` into int8 records: q = round(x * 127 / max|x|), scale, -8 * sum of q."""
    first, width = tile_of(t, tokens)
    record = records + (first * groups + g0 * width) * RECORD
    x += g0 * GROUP * 4
    i = t - first
    for _ in range(g1 - g0):
        quantize_group(x, record, i, width)
        x += 4 * GROUP
        record += width * RECORD


__all__ = [
    "F0", "F1", "WIDTHS", "at", "copy_of", "count", "each_token", "get_f32", "quantize_group", "quantize_row",
    "scratch_of", "small", "take", "tile_of",
]  # fmt: skip
