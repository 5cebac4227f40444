"""Ops that touch each token's row by itself: norms, quantizing, the gated activation, picking rows.

Rows are padded with zeros to a multiple of 32 floats, so no kernel has a ragged tail.
"""

from collections.abc import Callable

import numpy as np

from .common import F0, F1, at, copy_of, count, each_token, get_f32, quantize_row, small, take
from .layout import GROUP, PICKS, RECORD, THREADS
from .ops import field
from .simd.words import add, div, exp, fma, get_i64, jit, load_f32, mul, reduce_add, splat, sqrt, store_f32, sub

NORM_X, NORM_LDX, NORM_WEIGHT, NORM_Y, NORM_LDY, NORM_N, NORM_EPS, NORM_RECORDS, NORM_GROUPS, NORM_OWN = (
    field("rms_norm", f) for f in ("x", "ldx", "weight", "y", "ldy", "n", "eps", "records", "groups", "own")
)
QUANTIZE_X, QUANTIZE_LDX, QUANTIZE_RECORDS, QUANTIZE_GROUPS = (
    field("quantize", f) for f in ("x", "ldx", "records", "groups")
)
SWIGLU_GATE, SWIGLU_UP, SWIGLU_LDX, SWIGLU_Y, SWIGLU_LDY, SWIGLU_RECORDS, SWIGLU_GROUPS = (
    field("swiglu", f) for f in ("gate", "up", "ldx", "y", "ldy", "records", "groups")
)
GATHER_X, GATHER_LDX, GATHER_Y, GATHER_LDY, GATHER_N = (field("gather", f) for f in ("x", "ldx", "y", "ldy", "n"))


@jit
def rms_norm(row, context, thread, t, tokens):
    """y = x / sqrt(mean(x^2) + eps) * weight (Zhang & Sennrich 2019)."""
    groups, records, weight = at(row, NORM_GROUPS), at(row, NORM_RECORDS), at(row, NORM_WEIGHT)
    copy = copy_of(row, NORM_OWN, context, thread) * tokens
    x, y = at(row, NORM_X) + t * at(row, NORM_LDX) * 4, at(row, NORM_Y) + (copy + t) * at(row, NORM_LDY) * 4
    a, b = splat(F0), splat(F0)
    for g in range(groups):
        low, high = load_f32(x + g * 128), load_f32(x + g * 128 + 64)
        a, b = fma(low, low, a), fma(high, high, b)
    mean = reduce_add(add(a, b)) / np.float32(at(row, NORM_N))
    scale = div(splat(F1), sqrt(splat(mean + get_f32(row + NORM_EPS))))
    for i in range(0, groups * 128, 64):
        store_f32(y + i, mul(mul(load_f32(x + i), scale), load_f32(weight + i)))
    if records != 0:
        quantize_row(y, records + copy * groups * RECORD, groups, 0, groups, t, tokens)


def norm_kernel() -> Callable:
    """Tokens are shared out; or each thread takes them all, for itself."""
    shared = each_token(rms_norm)

    @jit
    def kernel(row, context, thread):
        if at(row, NORM_OWN) == 0 or not small(context):
            shared(row, context, thread)
            return
        tokens = count(row, context)
        for t in range(tokens):
            rms_norm(row, context, thread, t, tokens)

    return kernel


@jit
def quantize(row, context, thread, t, tokens):
    """A token's row as int8 groups, for the packed matrix products."""
    x, groups = at(row, QUANTIZE_X) + t * at(row, QUANTIZE_LDX) * 4, at(row, QUANTIZE_GROUPS)
    quantize_row(x, at(row, QUANTIZE_RECORDS), groups, 0, groups, t, tokens)


@jit
def gather(row, context, thread, m, wanted):
    """y[m] = x[wanted[m]]: from here on only the tokens whose logits are wanted."""
    x = at(row, GATHER_X) + get_i64(at(context, PICKS) + 8 * m) * at(row, GATHER_LDX) * 4
    y = at(row, GATHER_Y) + m * at(row, GATHER_LDY) * 4
    for i in range(0, at(row, GATHER_N) * 4, 64):
        store_f32(y + i, load_f32(x + i))


@jit
def swiglu_groups(gate, up, y, g0, g1):
    """y = gate * sigmoid(gate) * up (Shazeer 2020) in the groups g0..g1 of a token's row."""
    one = splat(F1)
    for i in range(g0 * GROUP * 4, g1 * GROUP * 4, 64):
        g = load_f32(gate + i)
        sigmoid = div(one, add(one, exp(sub(splat(F0), g))))
        store_f32(y + i, mul(mul(g, sigmoid), load_f32(up + i)))


@jit
def swiglu(row, context, thread):
    """Tokens are shared out, and a token's columns too when there is one token."""
    tokens, groups, records = count(row, context), at(row, SWIGLU_GROUPS), at(row, SWIGLU_RECORDS)
    threads = at(context, THREADS)
    parts = threads * 2 if tokens < threads * 2 else 1
    share = (groups + parts - 1) // parts
    while True:
        item = take(row, context, 1)
        if item >= tokens * parts:
            break
        t, first = item // parts, item % parts * share
        last = min(groups, first + share)
        offset = t * at(row, SWIGLU_LDX) * 4
        gate, up = at(row, SWIGLU_GATE) + offset, at(row, SWIGLU_UP) + offset
        y = at(row, SWIGLU_Y) + t * at(row, SWIGLU_LDY) * 4
        swiglu_groups(gate, up, y, first, last)
        if records != 0 and first < last:
            quantize_row(y, records, groups, first, last, t, tokens)


KERNELS = {
    "rms_norm": norm_kernel,
    "quantize": lambda: each_token(quantize),
    "swiglu": lambda: swiglu,
    "gather": lambda: each_token(gather),
}
