"""What ops with a state beside each sequence share: the tokens of a sequence in order, and functions of registers.

A state is float32, in blocks of a group of channels, so that a thread works in contiguous memory.  Threads share out
(sequence, block of channels): which thread has which changes no bit.  A sequence that begins at position 0 begins with
a state of zeros, whatever lay there.
"""

from collections.abc import Callable

import numpy as np

from .common import F0, F1, at, count, quantize_row, take
from .elementwise import silu
from .layout import COUNTS, FIRSTS, GROUP, NEXT, POSITIONS, SLOTS, STATES
from .ops import field
from .simd.words import (
    add,
    div,
    exp,
    fma,
    get_i64,
    jit,
    load_f32,
    load_f32_some,
    mul,
    splat,
    store_f32,
    sub,
    vabs,
    vmax,
)

WIDE = 4 * GROUP  # bytes of a block's channels


# -- sequences of a batch -----------------------------------------------------------------------------------------


@jit
def next_token(context, t):
    """The token that follows t in its sequence, -1 for none."""
    return get_i64(at(context, NEXT) + 8 * t)


@jit
def state_of(context, t, offset, size):
    """The address of a sequence's state from `offset` on; `size` bytes of it are zeroed where token t begins it."""
    slot = get_i64(at(context, SLOTS) + 8 * t)
    state = get_i64(at(context, STATES) + 8 * slot) + offset
    if get_i64(at(context, POSITIONS) + 8 * t) == 0:
        for i in range(0, size, 64):
            store_f32(state + i, splat(F0))
    return state


def each_block(blocks: Callable, body: Callable) -> Callable:
    """A kernel that shares out (sequence, block): `body(row, context, b, t, tokens)` goes through a sequence from its
    first token t on; `blocks(row)` is how many there are."""

    @jit
    def kernel(row, context, thread):
        tokens, n = count(row, context), blocks(row)
        items = get_i64(at(context, COUNTS) + 32) * n
        while True:
            item = take(row, context, 1)
            if item >= items:
                break
            body(row, context, item % n, get_i64(at(context, FIRSTS) + 8 * (item // n)), tokens)

    return kernel


# -- functions of registers -------------------------------------------------------------------------------------


@jit
def load_left(address, left):
    """Sixteen floats, of which `left` are there, and zeros for the rest."""
    return load_f32(address) if left >= 16 else load_f32_some(address, left)


@jit
def sigmoid(x):
    """1 / (1 + e^-x)."""
    one = splat(F1)
    return div(one, add(one, exp(sub(splat(F0), x))))


@jit
def softplus(x):
    """log(1 + e^x) = max(x, 0) + log(1 + u), u = e^-|x|; relative error below 1e-6.

    log(1 + u) = 2 artanh(s), s = u / (2 + u) <= 1/3: its series to s^15 is off by 3^-16 / 17 relative.
    """
    zero, two = splat(F0), splat(np.float32(2))
    u = exp(sub(zero, vabs(x)))
    s = div(u, add(two, u))
    q = mul(s, s)
    p = splat(np.float32(1 / 15))
    p = fma(p, q, splat(np.float32(1 / 13)))
    p = fma(p, q, splat(np.float32(1 / 11)))
    p = fma(p, q, splat(np.float32(1 / 9)))
    p = fma(p, q, splat(np.float32(1 / 7)))
    p = fma(p, q, splat(np.float32(1 / 5)))
    p = fma(p, q, splat(np.float32(1 / 3)))
    p = fma(p, q, splat(F1))
    return add(vmax(x, zero), mul(mul(two, s), p))


# -- convolution ------------------------------------------------------------------------------------------------

X, LDX, AT, GATE_IN, GATE_OUT, SILU, N, TAPS, WEIGHT, BIAS, STATE, Y, LDY, RECORDS = (
    field("short_conv", f)
    for f in ("x", "ldx", "at", "gate_in", "gate_out", "silu", "n", "taps", "weight", "bias", "state", "y", "ldy",
              "records")
)  # fmt: skip


@jit
def conv_blocks(row):
    return (at(row, N) + GROUP - 1) // GROUP


@jit
def conv_step(x, weight, state, taps, total):
    """`total` plus one register's convolution with the inputs before it, which `state` holds, oldest first; x joins
    them.  `weight` and `state` hold a block's channels for each tap."""
    for j in range(taps - 1):
        old = load_f32(state + j * WIDE)
        total = fma(old, load_f32(weight + j * WIDE), total)
        if j > 0:
            store_f32(state + (j - 1) * WIDE, old)
    if taps > 1:
        store_f32(state + (taps - 2) * WIDE, x)
    return fma(x, load_f32(weight + (taps - 1) * WIDE), total)


@jit
def conv_token(row, x, y, b, state):
    """A token's block of channels: x is the token's row."""
    taps = at(row, TAPS)
    for half in range(0, GROUP, 16):
        c = b * GROUP + half
        left = at(row, N) - c
        value = load_left(x + (at(row, AT) + c) * 4, left)
        if at(row, GATE_IN) >= 0:
            value = mul(value, load_left(x + (at(row, GATE_IN) + c) * 4, left))
        total = load_f32(at(row, BIAS) + c * 4) if at(row, BIAS) != 0 else splat(F0)
        total = conv_step(value, at(row, WEIGHT) + b * taps * WIDE + half * 4, state + half * 4, taps, total)
        if at(row, SILU) != 0:
            total = silu(total)
        if at(row, GATE_OUT) >= 0:
            total = mul(total, load_left(x + (at(row, GATE_OUT) + c) * 4, left))
        store_f32(y + c * 4, total)


@jit
def conv_block(row, context, b, t, tokens):
    """A causal convolution of each channel by itself, `taps` wide."""
    groups, size = conv_blocks(row), (at(row, TAPS) - 1) * WIDE
    state = state_of(context, t, at(row, STATE) + b * size, size)
    while t >= 0:
        y = at(row, Y) + t * at(row, LDY) * 4
        conv_token(row, at(row, X) + t * at(row, LDX) * 4, y, b, state)
        if at(row, RECORDS) != 0:
            quantize_row(y, at(row, RECORDS), groups, b, b + 1, t, tokens)
        t = next_token(context, t)


KERNELS = {"short_conv": lambda: each_block(conv_blocks, conv_block)}

__all__ = ["each_block", "load_left", "next_token", "sigmoid", "softplus", "state_of"]
