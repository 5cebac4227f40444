"""Ops that touch each token's row by itself: norms, quantizing, activations, limits, picking rows.

Rows are padded with zeros to a multiple of 32 floats, so no kernel has a ragged tail.
"""

from collections.abc import Callable

import numpy as np

from .common import F0, F1, at, copy_of, count, each_token, get_f32, quantize_row, small, take
from .layout import GROUP, NEXT, PICKS, POSITIONS, RECORD, THREADS
from .ops import ACTIVATIONS, field
from .simd.words import (
    add,
    div,
    erf,
    exp,
    fma,
    get_i64,
    jit,
    load_f32,
    mul,
    reduce_add,
    splat,
    sqrt,
    store_f32,
    sub,
    tanh,
    vmax,
    vmin,
    within,
)

NORM_X, NORM_LDX, NORM_WEIGHT, NORM_BIAS, NORM_Y, NORM_LDY, NORM_N, NORM_EPS, ACCUMULATE, NORM_RECORDS, NORM_GROUPS = (
    field("rms_norm", f)
    for f in ("x", "ldx", "weight", "bias", "y", "ldy", "n", "eps", "accumulate", "records", "groups")
)
OWN = field("rms_norm", "own")
QUANTIZE_X, QUANTIZE_LDX, QUANTIZE_RECORDS, QUANTIZE_GROUPS = (
    field("quantize", f) for f in ("x", "ldx", "records", "groups")
)
ACTIVATE_GATE, ACTIVATE_UP, ACTIVATE_LDX, ACTIVATE_Y, ACTIVATE_LDY, ACTIVATION, ACTIVATE_RECORDS, ACTIVATE_GROUPS = (
    field("activate", f) for f in ("gate", "up", "ldx", "y", "ldy", "activation", "records", "groups")
)
GATHER_X, GATHER_LDX, GATHER_Y, GATHER_LDY, GATHER_N = (field("gather", f) for f in ("x", "ldx", "y", "ldy", "n"))
LIMIT_X, LIMIT_LDX, LIMIT_N, LIMIT, SOFT = (field("limit", f) for f in ("x", "ldx", "n", "limit", "soft"))
GROW_X, GROW_LDX, GROW_N, GROW_TABLE, GROW_EVERY = (field("grow", f) for f in ("x", "ldx", "n", "table", "every"))


@jit
def no_mean(x, n, groups):
    return F0


@jit
def mean_of(x, n, groups):
    """The mean of n numbers, padded with zeros to groups."""
    a, b = splat(F0), splat(F0)
    for g in range(groups):
        a, b = add(a, load_f32(x + g * 128)), add(b, load_f32(x + g * 128 + 64))
    return reduce_add(add(a, b)) / np.float32(n)


@jit
def squares(x, n, groups):
    """The sum of the squares of n numbers, padded with zeros to groups."""
    a, b = splat(F0), splat(F0)
    for g in range(groups):
        low, high = load_f32(x + g * 128), load_f32(x + g * 128 + 64)
        a, b = fma(low, low, a), fma(high, high, b)
    return reduce_add(add(a, b))


@jit
def squares_from(x, mean, n):
    """The sum of the squared distances of n numbers from their mean."""
    total = splat(F0)
    for i in range(0, n, 16):
        away = within(sub(load_f32(x + i * 4), splat(mean)), i, 0, n - 1, F0)
        total = fma(away, away, total)
    return reduce_add(total)


def norm_kernel(center: bool) -> Callable:
    """y (+)= (x - mean) / sqrt(mean((x - mean)^2) + eps) * weight + bias (Ba et al. 2016), for `center`; without it the
    mean that is taken from x is 0 (Zhang & Sennrich 2019).  Tokens are shared out, or each thread takes them all, for
    itself."""
    mean_kernel = mean_of if center else no_mean

    @jit
    def norm(row, context, thread, t, tokens):
        groups, records, n = at(row, NORM_GROUPS), at(row, NORM_RECORDS), at(row, NORM_N)
        copy, weight, bias = copy_of(row, OWN, context, thread) * tokens, at(row, NORM_WEIGHT), at(row, NORM_BIAS)
        x, y = at(row, NORM_X) + t * at(row, NORM_LDX) * 4, at(row, NORM_Y) + (copy + t) * at(row, NORM_LDY) * 4
        middle = mean_kernel(x, n, groups)
        total = squares_from(x, middle, n) if center else squares(x, n, groups)
        scale = div(splat(F1), sqrt(splat(total / np.float32(n) + get_f32(row + NORM_EPS))))
        mean = splat(middle)
        if at(row, ACCUMULATE) != 0 or bias != 0:
            for i in range(0, groups * 128, 64):
                value = mul(mul(sub(load_f32(x + i), mean), scale), load_f32(weight + i))
                if bias != 0:
                    value = add(value, load_f32(bias + i))
                store_f32(y + i, add(value, load_f32(y + i)) if at(row, ACCUMULATE) != 0 else value)
        else:
            for i in range(0, groups * 128, 64):
                away = sub(load_f32(x + i), mean) if center else load_f32(x + i)
                store_f32(y + i, mul(mul(away, scale), load_f32(weight + i)))
        if records != 0:
            quantize_row(y, records + copy * groups * RECORD, groups, 0, groups, t, tokens)

    shared = each_token(norm)

    @jit
    def kernel(row, context, thread):
        if at(row, OWN) == 0 or not small(context):
            shared(row, context, thread)
            return
        tokens = count(row, context)
        for t in range(tokens):
            norm(row, context, thread, t, tokens)

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
def average(row, context, thread, m, wanted):
    """y[m] = the mean of x over the sequence that begins with token wanted[m]."""
    first, count = get_i64(at(context, PICKS) + 8 * m), F0
    t = first
    while t >= 0:
        count += F1
        t = get_i64(at(context, NEXT) + 8 * t)
    y = at(row, GATHER_Y) + m * at(row, GATHER_LDY) * 4
    for i in range(0, at(row, GATHER_N) * 4, 64):
        total, t = splat(F0), first
        while t >= 0:
            total = add(total, load_f32(at(row, GATHER_X) + t * at(row, GATHER_LDX) * 4 + i))
            t = get_i64(at(context, NEXT) + 8 * t)
        store_f32(y + i, mul(total, splat(F1 / count)))


# -- activations -----------------------------------------------------------------------------------------------------


@jit
def silu(x):
    """x sigmoid(x) (Elfwing et al. 2017)."""
    one = splat(F1)
    return mul(x, div(one, add(one, exp(sub(splat(F0), x)))))


@jit
def gelu(x):
    """x times the normal distribution up to x (Hendrycks & Gimpel 2016)."""
    half = splat(np.float32(0.5))
    return mul(x, fma(half, erf(mul(x, splat(np.float32(0.5**0.5)))), half))


@jit
def gelu_tanh(x):
    """Its approximation x / 2 (1 + tanh(z)) = x sigmoid(2 z), z = sqrt(2 / pi) (x + 0.044715 x^3)."""
    one = splat(F1)
    inner = fma(mul(x, x), splat(np.float32(0.044715)), one)
    z = mul(mul(x, inner), splat(np.float32(-2 * (2 / np.pi) ** 0.5)))
    return mul(x, div(one, add(one, exp(z))))


@jit
def quick_gelu(x):
    """x sigmoid(1.702 x)."""
    one = splat(F1)
    return mul(x, div(one, add(one, exp(mul(x, splat(np.float32(-1.702)))))))


@jit
def relu(x):
    return vmax(splat(F0), x)


@jit
def relu2(x):
    """relu(x)^2 (So et al. 2021)."""
    above = relu(x)
    return mul(above, above)


@jit
def clamped_silu(x):
    """min(x, 7) sigmoid(1.702 min(x, 7)), the gate of gpt-oss."""
    return quick_gelu(vmin(splat(np.float32(7)), x))


@jit
def same(x):
    return x


@jit
def clamped_plus_one(x):
    """x within +-7, plus 1: what gpt-oss multiplies its gate with."""
    limit = np.float32(7)
    return add(vmax(splat(-limit), vmin(splat(limit), x)), splat(F1))


def activation(function: Callable, factor: Callable, others: Callable | None, number: int) -> Callable:
    """y = function(gate) (* factor(up)) in the groups g0..g1 of a token's row, if `kind` is its number; else as
    `others` do."""

    @jit
    def here(gate, up, y, g0, g1):
        if up != 0:
            for i in range(g0 * GROUP * 4, g1 * GROUP * 4, 64):
                store_f32(y + i, mul(function(load_f32(gate + i)), factor(load_f32(up + i))))
        else:
            for i in range(g0 * GROUP * 4, g1 * GROUP * 4, 64):
                store_f32(y + i, function(load_f32(gate + i)))

    if others is None:

        @jit
        def last(kind, gate, up, y, g0, g1):
            here(gate, up, y, g0, g1)

        return last

    @jit
    def run(kind, gate, up, y, g0, g1):
        if kind == number:
            here(gate, up, y, g0, g1)
        else:
            others(kind, gate, up, y, g0, g1)

    return run


def activations() -> Callable:
    """`activation` of any of ACTIVATIONS."""
    functions = (*((f, same) for f in (silu, gelu, gelu_tanh, quick_gelu, relu, relu2)),
                 (clamped_silu, clamped_plus_one))  # fmt: skip
    found = None
    for number in reversed(range(len(ACTIVATIONS))):
        found = activation(*functions[number], found, number)
    assert found is not None
    return found


activate_groups = activations()


@jit
def activate(row, context, thread):
    """Tokens are shared out, and a token's columns too when there is one token."""
    tokens, groups, records = count(row, context), at(row, ACTIVATE_GROUPS), at(row, ACTIVATE_RECORDS)
    threads = at(context, THREADS)
    parts = threads * 2 if tokens < threads * 2 else 1
    share = (groups + parts - 1) // parts
    while True:
        item = take(row, context, 1)
        if item >= tokens * parts:
            break
        t, first = item // parts, item % parts * share
        last = min(groups, first + share)
        offset, up = t * at(row, ACTIVATE_LDX) * 4, at(row, ACTIVATE_UP)
        y = at(row, ACTIVATE_Y) + t * at(row, ACTIVATE_LDY) * 4
        up = up + offset if up != 0 else 0
        activate_groups(at(row, ACTIVATION), at(row, ACTIVATE_GATE) + offset, up, y, first, last)
        if records != 0 and first < last:
            quantize_row(y, records, groups, first, last, t, tokens)


# -- limits ----------------------------------------------------------------------------------------------------------

LIMIT_CHUNK = 2048  # numbers that a thread takes at a time


@jit
def limit(row, context, thread):
    """x within +-limit, or softly, limit * tanh(x / limit), in place."""
    tokens, n, top = count(row, context), at(row, LIMIT_N), get_f32(row + LIMIT)
    parts = (n + LIMIT_CHUNK - 1) // LIMIT_CHUNK
    while True:
        item = take(row, context, 1)
        if item >= tokens * parts:
            break
        x, first = at(row, LIMIT_X) + item // parts * at(row, LIMIT_LDX) * 4, item % parts * LIMIT_CHUNK
        for i in range(first, min(n, first + LIMIT_CHUNK), 16):
            value = load_f32(x + i * 4)
            if at(row, SOFT) != 0:
                store_f32(x + i * 4, mul(tanh(mul(value, splat(F1 / top))), splat(top)))
            else:
                store_f32(x + i * 4, vmax(splat(-top), vmin(splat(top), value)))


@jit
def grow(row, context, thread, t, tokens):
    """x[t] *= table[position[t] // every]."""
    step = get_i64(at(context, POSITIONS) + 8 * t) // at(row, GROW_EVERY)
    by, x = splat(get_f32(at(row, GROW_TABLE) + 4 * step)), at(row, GROW_X) + t * at(row, GROW_LDX) * 4
    for i in range(0, at(row, GROW_N), 16):
        store_f32(x + i * 4, mul(load_f32(x + i * 4), by))


KERNELS = {
    "rms_norm": lambda: norm_kernel(False),
    "layer_norm": lambda: norm_kernel(True),
    "quantize": lambda: each_token(quantize),
    "activate": lambda: activate,
    "limit": lambda: limit,
    "grow": lambda: each_token(grow),
    "gather": lambda: each_token(gather),
    "average": lambda: each_token(average),
}
