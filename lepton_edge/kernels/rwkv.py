"""RWKV 4 (Peng et al. 2023) and RWKV 7 (Peng et al. 2025): token shift, the two recurrences, what is around them."""

from collections.abc import Callable

import numpy as np

from .common import F0, F1, at, each_token, get_f32, quantize_row
from .layout import GROUP, POSITIONS
from .ops import field
from .recurrent import WIDE, each_block, load_left, next_token, sigmoid, state_of
from .simd.words import (
    add,
    broadcast_f32,
    div,
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
    store_f32_some,
    sub,
    tanh,
    vmax,
    within,
)

NOTHING = np.float32(-1e30)  # the exponent of an empty sum
DECAY = np.float32(-0.6065306597126334)  # -e^(-1/2): RWKV 7 keeps decays above e^this
SMALLEST_NORM = np.float32(1e-12)


def blocks_of(op: str) -> Callable:
    """How many blocks of channels a row of `op` has."""
    LD = field(op, "ld")

    @jit
    def blocks(row):
        return at(row, LD) // GROUP

    return blocks


# -- token shift ------------------------------------------------------------------------------------------------------

SHIFT_X, SHIFT_Y, SHIFT_LD, SHIFT_STATE = (field("token_shift", f) for f in ("x", "y", "ld", "state"))
MIX_X, MIX_D, MIX_WEIGHT, MIX_Y, MIX_LD, MIX_RECORDS = (
    field("mix", f) for f in ("x", "d", "weight", "y", "ld", "records")
)


@jit
def shift_block(row, context, b, t, tokens):
    """The difference to the token before; the state is that token."""
    state = state_of(context, t, at(row, SHIFT_STATE) + b * WIDE, WIDE)
    low, high = load_f32(state), load_f32(state + 64)
    while t >= 0:
        offset = (t * at(row, SHIFT_LD) + b * GROUP) * 4
        x, y = at(row, SHIFT_X) + offset, at(row, SHIFT_Y) + offset
        new_low, new_high = load_f32(x), load_f32(x + 64)
        store_f32(y, sub(low, new_low))
        store_f32(y + 64, sub(high, new_high))
        low, high = new_low, new_high
        t = next_token(context, t)
    store_f32(state, low)
    store_f32(state + 64, high)


@jit
def mix(row, context, thread, t, tokens):
    """y = x + weight d: x and the token before it, in the parts that `weight` says."""
    ld = at(row, MIX_LD)
    x, d, y = (at(row, MIX_X) + t * ld * 4, at(row, MIX_D) + t * ld * 4, at(row, MIX_Y) + t * ld * 4)
    for i in range(0, ld * 4, 64):
        store_f32(y + i, fma(load_f32(at(row, MIX_WEIGHT) + i), load_f32(d + i), load_f32(x + i)))
    if at(row, MIX_RECORDS) != 0:
        quantize_row(y, at(row, MIX_RECORDS), ld // GROUP, 0, ld // GROUP, t, tokens)


# -- functions of a row ---------------------------------------------------------------------------------------------

SQUASH_Y, SQUASH_LD, SQUASH_N, LOGISTIC, SQUASH_RECORDS = (
    field("squash", f) for f in ("y", "ld", "n", "logistic", "records")
)
ADD_GATE, ADD_X, ADD_Y, ADD_LD = (field("sigmoid_add", f) for f in ("gate", "x", "y", "ld"))


@jit
def squash(row, context, thread, t, tokens):
    """y = tanh(y) or sigmoid(y) in place."""
    n, ld = at(row, SQUASH_N), at(row, SQUASH_LD)
    y = at(row, SQUASH_Y) + t * ld * 4
    for i in range(0, n, 16):
        x = load_left(y + i * 4, n - i)
        store_f32_some(y + i * 4, sigmoid(x) if at(row, LOGISTIC) != 0 else tanh(x), n - i)
    if at(row, SQUASH_RECORDS) != 0:
        quantize_row(y, at(row, SQUASH_RECORDS), ld // GROUP, 0, ld // GROUP, t, tokens)


@jit
def sigmoid_add(row, context, thread, t, tokens):
    """y += sigmoid(gate) x."""
    offset = t * at(row, ADD_LD) * 4
    gate, x, y = at(row, ADD_GATE) + offset, at(row, ADD_X) + offset, at(row, ADD_Y) + offset
    for i in range(0, at(row, ADD_LD) * 4, 64):
        store_f32(y + i, fma(sigmoid(load_f32(gate + i)), load_f32(x + i), load_f32(y + i)))


# -- RWKV 4 --------------------------------------------------------------------------------------------------------

R4, K4, V4, Y4, LD4, DECAY4, FIRST4, STATE4, RECORDS4 = (
    field("wkv4", f) for f in ("r", "k", "v", "y", "ld", "decay", "first", "state", "records")
)


@jit
def wkv4_step(k, v, decay, first, state):
    """One token of a register of channels: `state` holds sums of e^k v and of e^k, both divided by e^top, and top."""
    above, below, top = load_f32(state), load_f32(state + WIDE), load_f32(state + 2 * WIDE)
    now = add(k, first)
    highest = vmax(top, now)
    old, new = exp(sub(top, highest)), exp(sub(now, highest))
    y = div(fma(old, above, mul(new, v)), fma(old, below, new))
    top = add(top, decay)
    highest = vmax(top, k)
    old, new = exp(sub(top, highest)), exp(sub(k, highest))
    store_f32(state, fma(old, above, mul(new, v)))
    store_f32(state + WIDE, fma(old, below, new))
    store_f32(state + 2 * WIDE, highest)
    return y


@jit
def wkv4_block(row, context, b, t, tokens):
    """A block of channels; an empty state has sums of 0 and the lowest exponent."""
    size, ld = 3 * WIDE, at(row, LD4)
    state = state_of(context, t, at(row, STATE4) + b * size, size)
    if get_i64(at(context, POSITIONS) + 8 * t) == 0:
        store_f32(state + 2 * WIDE, splat(NOTHING))
        store_f32(state + 2 * WIDE + 64, splat(NOTHING))
    while t >= 0:
        y = at(row, Y4) + t * ld * 4
        for c in range(b * WIDE, (b + 1) * WIDE, 64):
            offset = t * ld * 4 + c
            value = wkv4_step(load_f32(at(row, K4) + offset), load_f32(at(row, V4) + offset),
                              load_f32(at(row, DECAY4) + c), load_f32(at(row, FIRST4) + c),
                              state + c - b * WIDE)  # fmt: skip
            store_f32(y + c, mul(sigmoid(load_f32(at(row, R4) + offset)), value))
        if at(row, RECORDS4) != 0:
            quantize_row(y, at(row, RECORDS4), ld // GROUP, b, b + 1, t, tokens)
        t = next_token(context, t)


# -- RWKV 7 --------------------------------------------------------------------------------------------------------

IN_W, IN_K, IN_A, IN_KK, IN_V, IN_FIRST, IN_MIX, IN_LD, IN_K_K, IN_K_A, IN_HEADS, IN_DIM = (
    field("wkv7_inputs", f)
    for f in ("decay", "k", "a", "kk", "v", "v_first", "mix", "ld", "k_k", "k_a", "heads", "head_dim")
)
R7, W7, K7, V7, KK7, A7, Y7, LD7, HEADS7, DIM7, STATE7 = (
    field("wkv7", f) for f in ("r", "decay", "k", "v", "kk", "a", "y", "ld", "heads", "head_dim", "state")
)
(
    OUT_Y, OUT_R, OUT_K, OUT_V, OUT_GATE, OUT_LD, OUT_R_K, OUT_WEIGHT, OUT_BIAS, OUT_HEADS, OUT_DIM, OUT_EPS,
    OUT_RECORDS,
) = (
    field("wkv7_output", f)
    for f in ("y", "r", "k", "v", "gate", "ld", "r_k", "weight", "bias", "heads", "head_dim", "eps", "records")
)  # fmt: skip


@jit
def direction(k, weight, kk, d):
    """kk = k weight, made a unit vector."""
    total = splat(F0)
    for i in range(0, d, 16):
        value = mul(load_left(k + i * 4, d - i), load_left(weight + i * 4, d - i))
        total = fma(value, value, total)
        store_f32_some(kk + i * 4, value, d - i)
    scale = div(splat(F1), vmax(splat(SMALLEST_NORM), sqrt(splat(reduce_add(total)))))
    for i in range(0, d, 16):
        store_f32_some(kk + i * 4, mul(load_left(kk + i * 4, d - i), scale), d - i)


@jit
def wkv7_inputs(row, context, thread, t, tokens):
    """w = e^(-e^(-1/2) sigmoid(w)), a = sigmoid(a), kk = unit(k k_k), k = k (1 + (a - 1) k_a), a = kk a;
    v = v + (v_first - v) sigmoid(mix)."""
    offset, d, one = t * at(row, IN_LD) * 4, at(row, IN_DIM), splat(F1)
    n = at(row, IN_HEADS) * d
    w, k, a, kk, v = (at(row, IN_W) + offset, at(row, IN_K) + offset, at(row, IN_A) + offset, at(row, IN_KK) + offset,
                      at(row, IN_V) + offset)  # fmt: skip
    for head in range(0, n * 4, d * 4):
        direction(k + head, at(row, IN_K_K) + head, kk + head, d)
    for i in range(0, at(row, IN_LD) * 4, 64):
        rate, key = sigmoid(load_f32(a + i)), load_f32(k + i)
        store_f32_some(w + i, exp(mul(splat(DECAY), sigmoid(load_f32(w + i)))), n - i // 4)
        store_f32(k + i, fma(mul(key, sub(rate, one)), load_f32(at(row, IN_K_A) + i), key))
        store_f32(a + i, mul(load_f32(kk + i), rate))
        if at(row, IN_MIX) != 0:
            value, share = load_f32(v + i), sigmoid(load_f32(at(row, IN_MIX) + offset + i))
            store_f32(v + i, fma(sub(load_f32(at(row, IN_FIRST) + offset + i), value), share, value))


@jit
def wkv7_blocks(row):
    return at(row, HEADS7) * ((at(row, DIM7) + GROUP - 1) // GROUP)


@jit
def wkv7_step(row, state, at_head, v0, v1, d):
    """One token of 32 values of a head: `state` is [keys][32].  -> the two registers of S r."""
    s0, s1, y0, y1 = splat(F0), splat(F0), splat(F0), splat(F0)
    for i in range(d):
        kk = broadcast_f32(at(row, KK7) + at_head + i * 4)
        s0, s1 = fma(load_f32(state + i * WIDE), kk, s0), fma(load_f32(state + i * WIDE + 64), kk, s1)
    s0, s1 = sub(splat(F0), s0), sub(splat(F0), s1)
    for i in range(d):
        c = at_head + i * 4
        w, k, a, r = (broadcast_f32(at(row, W7) + c), broadcast_f32(at(row, K7) + c), broadcast_f32(at(row, A7) + c),
                      broadcast_f32(at(row, R7) + c))  # fmt: skip
        low = fma(load_f32(state), w, fma(s0, a, mul(v0, k)))
        high = fma(load_f32(state + 64), w, fma(s1, a, mul(v1, k)))
        store_f32(state, low)
        store_f32(state + 64, high)
        y0, y1 = fma(low, r, y0), fma(high, r, y1)
        state += WIDE
    return y0, y1


@jit
def wkv7_block(row, context, b, t, tokens):
    """32 values of a head."""
    d = at(row, DIM7)
    parts, size = (d + GROUP - 1) // GROUP, d * WIDE
    head, part = b // parts, b % parts * GROUP
    left = d - part
    state = state_of(context, t, at(row, STATE7) + b * size, size)
    while t >= 0:
        at_head = (t * at(row, LD7) + head * d) * 4
        v = at(row, V7) + at_head + part * 4
        y0, y1 = wkv7_step(row, state, at_head, load_left(v, left), load_left(v + 64, left - 16), d)
        y = at(row, Y7) + at_head + part * 4
        store_f32_some(y, y0, left)
        store_f32_some(y + 64, y1, left - 16)
        t = next_token(context, t)


@jit
def head_norm(y, d, eps):
    """(mean, 1 / sqrt(variance + eps)) of d numbers."""
    total, squares = splat(F0), splat(F0)
    for i in range(0, d, 16):
        total = add(total, load_left(y + i * 4, d - i))
    mean = reduce_add(total) / np.float32(d)
    for i in range(0, d, 16):
        away = within(load_left(y + i * 4, d - i), i, 0, d - 1, mean)  # what is not there counts as the mean
        away = sub(away, splat(mean))
        squares = fma(away, away, squares)
    return splat(mean), div(splat(F1), sqrt(splat(reduce_add(squares) / np.float32(d) + eps)))


@jit
def wkv7_output(row, context, thread, t, tokens):
    """Each head normalised, plus the token's own value as much as r and k agree, times the gate."""
    ld, d = at(row, OUT_LD), at(row, OUT_DIM)
    offset = t * ld * 4
    for head in range(0, at(row, OUT_HEADS) * d * 4, d * 4):
        y, own = at(row, OUT_Y) + offset + head, splat(F0)
        mean, scale = head_norm(y, d, get_f32(row + OUT_EPS))
        for i in range(0, d, 16):
            c, left = offset + head + i * 4, d - i
            agreed = mul(load_left(at(row, OUT_R) + c, left), load_left(at(row, OUT_K) + c, left))
            own = fma(agreed, load_left(at(row, OUT_R_K) + head + i * 4, left), own)
        own = splat(reduce_add(own))
        for i in range(0, d, 16):
            c, left, p = offset + head + i * 4, d - i, head + i * 4
            value = mul(sub(load_left(y + i * 4, left), mean), scale)
            value = fma(value, load_left(at(row, OUT_WEIGHT) + p, left), load_left(at(row, OUT_BIAS) + p, left))
            value = fma(own, load_left(at(row, OUT_V) + c, left), value)
            store_f32_some(y + i * 4, mul(value, load_left(at(row, OUT_GATE) + c, left)), left)
    if at(row, OUT_RECORDS) != 0:
        quantize_row(at(row, OUT_Y) + offset, at(row, OUT_RECORDS), ld // GROUP, 0, ld // GROUP, t, tokens)


KERNELS = {
    "token_shift": lambda: each_block(blocks_of("token_shift"), shift_block),
    "mix": lambda: each_token(mix),
    "squash": lambda: each_token(squash),
    "sigmoid_add": lambda: each_token(sigmoid_add),
    "wkv4": lambda: each_block(blocks_of("wkv4"), wkv4_block),
    "wkv7_inputs": lambda: each_token(wkv7_inputs),
    "wkv7": lambda: each_block(wkv7_blocks, wkv7_block),
    "wkv7_output": lambda: each_token(wkv7_output),
}
