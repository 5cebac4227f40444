"""What a sampler asks of a token's logits: the likeliest tokens, and the sums that turn logits into probabilities.

`block_peaks` reads all logits, a chunk at a time, and keeps a maximum for each block; `top` then looks only into the
blocks whose maximum is among the largest.  For 150,000 logits that is 5,000 maxima and some 4,000 logits.
"""

import numpy as np

from .common import F0, F1, at, count, each_token, get_f32, take
from .layout import HEATS, TOP, TOP_BLOCK, TOP_CHUNK
from .ops import field
from .simd.words import (
    add,
    count_reached,
    exp2,
    get_i32,
    jit,
    lane,
    load_f32,
    mul,
    put_f32,
    put_i32,
    reduce_add,
    reduce_add_i32,
    reduce_max,
    splat,
    sub,
    vmax,
    within,
    zero_i32,
)

PEAKS_X, PEAKS_LDX, PEAKS_N, PEAKS_Y, PEAKS_LDY = (field("block_peaks", f) for f in ("x", "ldx", "n", "y", "ldy"))
TOP_X, TOP_LDX, TOP_N, TOP_PEAKS, TOP_LDP, TOP_Y, TOP_LDY, TOP_IDS = (
    field("top", f) for f in ("x", "ldx", "n", "peaks", "ldp", "y", "ldy", "ids")
)
BLOCKS = TOP_CHUNK // TOP_BLOCK  # blocks of a chunk
NOTHING = np.float32(-np.inf)
LOG2E = np.float32(1.4426950408889634)
FEW = 4 * TOP  # blocks whose maxima say little of the likeliest logits
LOWEST = np.float32(np.finfo(np.float32).min)  # what a chunk of nothing but -inf is shifted by
ORDER_INF = 0x7F800000  # infinity's place among the floats in rising order, counted from zero


@jit
def logits_at(x, i, n):
    """Logits i..i+15 of the n at x; -inf past the last."""
    v = load_f32(x + 4 * i)
    return v if i + 16 <= n else within(v, i, 0, n - 1, NOTHING)


@jit
def block_peaks(row, context, thread):
    """Maxima of blocks (-inf past the last logit), and for each chunk the sums of exp(x - its largest), of exp of
    that over the temperature.  NaN is not among the maxima, and makes the sums NaN."""
    wanted, n, ldy = count(row, context), at(row, PEAKS_N), at(row, PEAKS_LDY)
    chunks = (n + TOP_CHUNK - 1) // TOP_CHUNK
    while True:
        item = take(row, context, 1)
        if item >= wanted * chunks:
            break
        m, c = item // chunks, item % chunks
        x, y = at(row, PEAKS_X) + m * at(row, PEAKS_LDX) * 4, at(row, PEAKS_Y) + m * ldy * 4
        heat = get_f32(at(context, HEATS) + 4 * m)
        peak = LOWEST
        for b in range(c * BLOCKS, (c + 1) * BLOCKS):
            largest = splat(NOTHING)
            for i in range(b * TOP_BLOCK, min(n, (b + 1) * TOP_BLOCK), 16):
                largest = vmax(logits_at(x, i, n), largest)  # in this order NaN is not the larger one
            put_f32(y + 4 * b, reduce_max(largest))
            peak = max(peak, get_f32(y + 4 * b))
        total, heated = splat(F0), splat(F0)
        for i in range(c * TOP_CHUNK, min(n, (c + 1) * TOP_CHUNK), 16):
            away = sub(logits_at(x, i, n), splat(peak))
            total = add(total, exp2(mul(away, splat(LOG2E))))
            if heat != F1:
                heated = add(heated, exp2(mul(away, splat(heat * LOG2E))))
        sums = y + 4 * chunks * BLOCKS
        put_f32(sums + 4 * c, reduce_add(total))
        put_f32(sums + 4 * (chunks + c), reduce_add(heated if heat != F1 else total))


@jit
def threshold(x, n, bits):
    """A number that TOP of the n floats at x reach, and hardly more; -inf where there are fewer.  `bits`: scratch, 4
    bytes.

    Bisection over the floats in rising order, counted from zero: that count is the bits of a positive float.
    """
    low, high = -ORDER_INF - 1, ORDER_INF + 1
    while high - low > 1:
        middle = (low + high) >> 1
        put_i32(bits, middle if middle >= 0 else middle ^ 0x7FFFFFFF)
        limit, reached = splat(get_f32(bits)), zero_i32()
        for i in range(0, n, 16):
            reached = count_reached(reached, logits_at(x, i, n), limit)
        found = reduce_add_i32(reached)
        if found >= TOP:
            low = middle
        else:
            high = middle
        if found == TOP:
            break
    put_i32(bits, low if low >= 0 else low ^ 0x7FFFFFFF)
    return get_f32(bits)


@jit
def insert(y, ids, found, value, token):
    """Put a token among the `found` likeliest, behind those that are as likely; the last of TOP falls out."""
    i = min(found, TOP - 1)
    while i > 0 and get_f32(y + 4 * i - 4) < value:
        put_f32(y + 4 * i, get_f32(y + 4 * i - 4))
        put_i32(ids + 4 * i, get_i32(ids + 4 * i - 4))
        i -= 1
    put_f32(y + 4 * i, value)
    put_i32(ids + 4 * i, token)


@jit
def total_of(peaks, sums, chunks, peak, heat, shares):
    """The chunks' sums, each relative to the largest of its chunk, as one sum relative to `peak`; shares: its terms."""
    total = F0
    for c in range(chunks):
        largest = splat(LOWEST)
        for i in range(c * BLOCKS, (c + 1) * BLOCKS, 16):
            largest = vmax(load_f32(peaks + 4 * i), largest)
        away = (reduce_max(largest) - peak) * (heat * LOG2E)
        share = get_f32(sums + 4 * c) * lane(exp2(splat(away)), 0)
        put_f32(shares + 4 * c, share)
        total += share
    return total


@jit
def top(row, context, thread, m, wanted):
    """The TOP largest logits, falling, equal ones by id; after them the two sums, and each chunk's share of the second;
    their ids.  Where there are fewer: -inf and 0."""
    n, x, peaks = at(row, TOP_N), at(row, TOP_X) + m * at(row, TOP_LDX) * 4, at(row, TOP_PEAKS)
    peaks += m * at(row, TOP_LDP) * 4
    y, ids = at(row, TOP_Y) + m * at(row, TOP_LDY) * 4, at(row, TOP_IDS) + m * TOP * 4
    chunks = (n + TOP_CHUNK - 1) // TOP_CHUNK
    for i in range(TOP):
        put_f32(y + 4 * i, NOTHING)
        put_i32(ids + 4 * i, 0)
    blocks, found = chunks * BLOCKS, 0
    limit = threshold(peaks, blocks, y + 4 * TOP) if blocks > FEW else threshold(x, n, y + 4 * TOP)
    for b in range((n + TOP_BLOCK - 1) // TOP_BLOCK):
        if get_f32(peaks + 4 * b) >= limit:
            for i in range(b * TOP_BLOCK, min(n, (b + 1) * TOP_BLOCK)):
                value = get_f32(x + 4 * i)
                if value >= limit and (found < TOP or value > get_f32(y + 4 * TOP - 4)):
                    insert(y, ids, found, value, i)
                    found += 1
    peak, heat = max(get_f32(y), LOWEST), get_f32(at(context, HEATS) + 4 * m)
    sums, shares = peaks + 4 * chunks * BLOCKS, y + 4 * TOP + 8
    put_f32(y + 4 * TOP, total_of(peaks, sums, chunks, peak, F1, shares))
    put_f32(y + 4 * TOP + 4, total_of(peaks, sums + 4 * chunks, chunks, peak, heat, shares))


KERNELS = {"block_peaks": lambda: block_peaks, "top": lambda: each_token(top)}
