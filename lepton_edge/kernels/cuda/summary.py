"""What a sampler asks of a token's logits (see `kernels/summary.py`): maxima of blocks, the likeliest tokens, sums.

`block_peaks` has a block for each chunk of logits.  `top` has a block for each token: the TOP-th largest maximum bounds
what the likeliest logits are; of the blocks that reach it the TOP-th largest logit is found, exactly, eight bits of its
place among the floats at a time; then those that reach it are put in order.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda

from ..layout import TOP, TOP_BLOCK, TOP_CHUNK
from .common import F0, at, block_max, block_sum
from .elementwise import fields
from .layout import HEATS
from .words import LANES, begin, get_f32, get_i32, jit, put_f32, put_i32, warp_max

__all__ = ["KERNELS"]

PEAKS, LIKELIEST = fields("block_peaks"), fields("top")
X, LDX, N, PEAKS_Y, PEAKS_LDY = (PEAKS[name] for name in ("x", "ldx", "n", "y", "ldy"))
TOP_X, TOP_LDX, TOP_N, TOP_PEAKS, TOP_LDP, TOP_Y, TOP_LDY, TOP_IDS = (
    LIKELIEST[name] for name in ("x", "ldx", "n", "peaks", "ldp", "y", "ldy", "ids")
)
BLOCKS = TOP_CHUNK // TOP_BLOCK
NOTHING, LOWEST = np.float32(-np.inf), np.float32(np.finfo(np.float32).min)
BINS = 256
SOME = 16
CHOSEN = BINS + BINS // SOME
COUNTS = CHOSEN + 2  # of logits by eight bits, by four; which bits are chosen, and how many are wanted among them
HELD = 2 * TOP
LISTED = 1024  # blocks: there are hardly more than TOP where logits differ
STARTS = 1024 + 1024 // SOME


def peaks_kernel() -> Callable[..., None]:
    """Maxima of blocks (-inf past the last logit), and for each chunk the sums of exp(x - its largest), plain and
    heated.  NaN is not among the maxima, and makes the sums NaN."""

    def kernel(row, context, extra):
        n, m, c = at(row, N), cuda.blockIdx.y, cuda.blockIdx.x
        thread, threads, lane = cuda.threadIdx.x, cuda.blockDim.x, cuda.threadIdx.x % LANES
        chunks, stop = cuda.gridDim.x, min(n, (c + 1) * TOP_CHUNK)
        x, y = at(row, X) + m * at(row, LDX) * 4, at(row, PEAKS_Y) + m * at(row, PEAKS_LDY) * 4
        heat, peak = get_f32(at(context, HEATS) + 4 * m), LOWEST
        begin()
        for b in range(c * BLOCKS + thread // LANES, (c + 1) * BLOCKS, threads // LANES):
            largest = NOTHING
            for j in range(b * TOP_BLOCK + lane, min(n, (b + 1) * TOP_BLOCK), LANES):
                value = get_f32(x + 4 * j)
                if value > largest:
                    largest = value
            largest = warp_max(largest)
            if lane == 0:
                put_f32(y + 4 * b, largest)
            peak = max(peak, largest)
        peak, total, heated = block_max(peak), F0, F0
        for j in range(c * TOP_CHUNK + thread, stop, threads):
            away = get_f32(x + 4 * j) - peak
            total += math.exp(away)
            heated += math.exp(away * heat)
        total, heated = block_sum(total), block_sum(heated)
        if thread == 0:
            put_f32(y + 4 * (chunks * BLOCKS + c), total)
            put_f32(y + 4 * (chunks * BLOCKS + chunks + c), heated)

    return kernel


@jit
def order_of(address):
    """The place of a float among all, as 32 bits that rise with it; NaN is 0, below all others."""
    bits = np.int64(get_i32(address)) & 0xFFFFFFFF
    if (bits & 0x7FFFFFFF) > 0x7F800000:
        return np.int64(0)
    return bits ^ 0xFFFFFFFF if bits >> 31 else bits | 0x80000000


@jit
def nth(x, n, blocks, listed, chosen, wanted, bins):
    """The order of the `wanted`-th largest of n floats at x, in the `chosen` blocks that `listed` names, or in all, for
    -1; 0 where there are fewer."""
    thread, threads, found = cuda.threadIdx.x, cuda.blockDim.x, np.int64(0)
    for shift in range(24, -1, -8):
        for i in range(thread, COUNTS, threads):
            bins[i] = 0
        cuda.syncthreads()
        for j in range(thread // TOP_BLOCK, blocks if chosen < 0 else chosen, max(1, threads // TOP_BLOCK)):
            first = TOP_BLOCK * np.int64(j if chosen < 0 else listed[j])
            for i in range(first + thread % TOP_BLOCK, min(n, first + TOP_BLOCK), min(threads, TOP_BLOCK)):
                order = order_of(x + 4 * i)
                if order > 0 and order >> (shift + 8) == found >> (shift + 8):
                    digit = (order >> shift) & 255
                    cuda.atomic.add(bins, digit, 1)
                    cuda.atomic.add(bins, BINS + digit // SOME, 1)
        cuda.syncthreads()
        if thread == 0:
            left, some = wanted, BINS // SOME - 1
            while some >= 0 and bins[BINS + some] < left:
                left -= bins[BINS + some]
                some -= 1
            digit = (some + 1) * SOME - 1
            while some >= 0 and bins[digit] < left:
                left -= bins[digit]
                digit -= 1
            bins[CHOSEN], bins[CHOSEN + 1] = digit, left
        cuda.syncthreads()
        digit, wanted = bins[CHOSEN], bins[CHOSEN + 1]
        cuda.syncthreads()
        if digit < 0:
            return np.int64(0)
        found |= np.int64(digit) << shift
    return found


@jit
def put_sums(peaks, chunks, peak, heat, y):
    """The chunks' sums, each relative to the largest of its chunk, as sums relative to `peak`, behind the TOP values;
    and what each chunk adds to the second."""
    lane, warp, plain, heated = cuda.threadIdx.x % LANES, cuda.threadIdx.x // LANES, F0, F0
    sums = peaks + 4 * chunks * BLOCKS
    for c in range(warp, chunks, cuda.blockDim.x // LANES):
        largest = LOWEST
        for b in range(c * BLOCKS + lane, (c + 1) * BLOCKS, LANES):
            largest = max(largest, get_f32(peaks + 4 * b))
        away = warp_max(largest) - peak
        share = get_f32(sums + 4 * (chunks + c)) * math.exp(away * heat)
        if lane == 0:
            put_f32(y + 4 * (TOP + 2 + c), share)
            plain += get_f32(sums + 4 * c) * math.exp(away)
            heated += share
    plain, heated = block_sum(plain), block_sum(heated)
    if cuda.threadIdx.x == 0:
        put_f32(y + 4 * TOP, plain)
        put_f32(y + 4 * TOP + 4, heated)


@jit
def put_token(x, y, ids, place, token):
    put_i32(ids + 4 * place, token)
    put_f32(y + 4 * place, get_f32(x + 4 * token))


@jit
def put_first_equals(x, n, last, place, y, ids, starts):
    """Of very many logits of the order `last` the first, from place on, up to TOP: each thread looks at neighbours."""
    thread, threads, equals = cuda.threadIdx.x, cuda.blockDim.x, 0
    share = (n + threads - 1) // threads
    for i in range(thread * share, min(n, (thread + 1) * share)):
        if order_of(x + 4 * i) == last:
            equals += 1
    starts[thread] = equals
    cuda.syncthreads()
    if thread % SOME == 0:
        total = 0
        for i in range(thread, min(threads, thread + SOME)):
            total += starts[i]
        starts[threads + thread // SOME] = total
    cuda.syncthreads()
    for i in range(thread // SOME):
        place += starts[threads + i]
    for i in range(thread // SOME * SOME, thread):
        place += starts[i]
    for i in range(thread * share, min(n, (thread + 1) * share)):
        if place < TOP and order_of(x + 4 * i) == last:
            put_token(x, y, ids, place, i)
            place += 1


def top_kernel() -> Callable[..., None]:
    """The TOP largest logits, falling, equal ones by id; after them the two sums, and each chunk's share of the second;
    their ids.  Where there are fewer: -inf and 0."""

    def kernel(row, context, extra):
        bins = cuda.shared.array(COUNTS, np.int32)
        held = cuda.shared.array(HELD, np.int32)  # ids of those above the last, then of those that equal it
        found = cuda.shared.array(3, np.int32)  # how many of both, and blocks that may have some
        listed = cuda.shared.array(LISTED, np.int32)
        starts = cuda.shared.array(STARTS, np.int32)
        thread, threads, n = cuda.threadIdx.x, cuda.blockDim.x, at(row, TOP_N)
        m = cuda.blockIdx.x
        x, peaks = at(row, TOP_X) + m * at(row, TOP_LDX) * 4, at(row, TOP_PEAKS) + m * at(row, TOP_LDP) * 4
        y, ids = at(row, TOP_Y) + m * at(row, TOP_LDY) * 4, at(row, TOP_IDS) + m * TOP * 4
        blocks, chunks = (n + TOP_BLOCK - 1) // TOP_BLOCK, (n + TOP_CHUNK - 1) // TOP_CHUNK
        begin()
        for i in range(thread, 3, threads):
            found[i] = 0
        limit = nth(peaks, blocks, (blocks + TOP_BLOCK - 1) // TOP_BLOCK, listed, -1, TOP, bins)
        for b in range(thread, blocks, threads):
            if order_of(peaks + 4 * b) >= limit:
                place = cuda.atomic.add(found, 2, 1)
                if place < LISTED:
                    listed[place] = b
        cuda.syncthreads()
        chosen = found[2] if found[2] <= LISTED else -1
        last = nth(x, n, blocks, listed, chosen, TOP, bins)  # 0: all of them, but for NaN
        for j in range(thread // TOP_BLOCK, blocks if chosen < 0 else chosen, max(1, threads // TOP_BLOCK)):
            first = TOP_BLOCK * np.int64(j if chosen < 0 else listed[j])
            for i in range(first + thread % TOP_BLOCK, min(n, first + TOP_BLOCK), min(threads, TOP_BLOCK)):
                order = order_of(x + 4 * i)
                if order > last:
                    held[cuda.atomic.add(found, 0, 1)] = i
                elif order == last and order > 0:
                    place = cuda.atomic.add(found, 1, 1)
                    if place < TOP:
                        held[TOP + place] = i
        cuda.syncthreads()
        above, equal = found[0], found[1]
        for i in range(thread, above, threads):
            token, rank = np.int64(held[i]), 0
            mine = order_of(x + 4 * token)
            for j in range(above):
                other = order_of(x + 4 * np.int64(held[j]))
                if other > mine or (other == mine and held[j] < token):
                    rank += 1
            put_token(x, y, ids, rank, token)
        if equal <= TOP:
            for i in range(thread, equal, threads):
                token, place = np.int64(held[TOP + i]), above
                for j in range(equal):
                    if held[TOP + j] < token:
                        place += 1
                if place < TOP:
                    put_token(x, y, ids, place, token)
        else:
            put_first_equals(x, n, last, above, y, ids, starts)
        for i in range(thread, TOP, threads):
            if i >= above + equal:
                put_i32(ids + 4 * i, 0)
                put_f32(y + 4 * i, NOTHING)
        cuda.syncthreads()
        put_sums(peaks, chunks, max(get_f32(y), LOWEST), get_f32(at(context, HEATS) + 4 * m), y)

    return kernel


KERNELS: dict[str, Callable[[], Any]] = {"block_peaks": peaks_kernel, "top": top_kernel}
