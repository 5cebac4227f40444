"""Selective state spaces: the scans of Mamba (Gu & Dao 2023) and Mamba 2 (Dao & Gu 2024), and the latter's norm.

Only the scans are sequential in time; products, steps and gates of all tokens are rows before and after them.
"""

import numpy as np

from .common import F0, F1, at, each_token, get_f32, quantize_row
from .elementwise import silu
from .layout import GROUP
from .ops import field
from .recurrent import WIDE, each_block, load_left, next_token, softplus, state_of
from .simd.words import (
    add,
    broadcast_f32,
    div,
    exp2,
    fma,
    jit,
    load_f32,
    mul,
    reduce_add,
    splat,
    sqrt,
    store_f32,
    store_f32_some,
    vmax,
    vmin,
)

# -- Mamba: each channel has a decay for each of its states -------------------------------------------------------

X, DT, Y, LD, BC, LDBC, AT, Z, LDZ, A, D, N, STATES, STATE, RECORDS = (
    field("selective_scan", f)
    for f in ("x", "dt", "y", "ld", "bc", "ldbc", "at", "z", "ldz", "a", "d", "n", "states", "state", "records")
)


@jit
def scan_blocks(row):
    return (at(row, N) + GROUP - 1) // GROUP


@jit
def scan_step(x, dt, a, state, b, states):
    """Sum over the states of C h, h = 2^(dt a) h + dt x B, for a register of channels; C lies behind B."""
    y, dx = splat(F0), mul(dt, x)
    for n in range(states):
        h = fma(load_f32(state), exp2(mul(dt, load_f32(a))), mul(dx, broadcast_f32(b + n * 4)))
        store_f32(state, h)
        y = fma(h, broadcast_f32(b + (states + n) * 4), y)
        a += WIDE
        state += WIDE
    return y


@jit
def scan_block(row, context, b, t, tokens):
    """A block of channels: `a` holds -e^A_log / log 2 and the state h, each as [states][32]."""
    groups, size = scan_blocks(row), at(row, STATES) * WIDE
    state = state_of(context, t, at(row, STATE) + b * size, size)
    while t >= 0:
        offset = t * at(row, LD) * 4
        bc = at(row, BC) + (t * at(row, LDBC) + at(row, AT)) * 4
        for half in range(0, GROUP, 16):
            c = b * GROUP + half
            x, dt = load_f32(at(row, X) + offset + c * 4), softplus(load_f32(at(row, DT) + offset + c * 4))
            y = scan_step(x, dt, at(row, A) + b * size + half * 4, state + half * 4, bc, at(row, STATES))
            y = fma(x, load_f32(at(row, D) + c * 4), y)
            z = silu(load_left(at(row, Z) + (t * at(row, LDZ) + at(row, N) + c) * 4, at(row, N) - c))
            store_f32(at(row, Y) + offset + c * 4, mul(y, z))
        if at(row, RECORDS) != 0:
            quantize_row(at(row, Y) + offset, at(row, RECORDS), groups, b, b + 1, t, tokens)
        t = next_token(context, t)


# -- Mamba 2: one decay for each head -------------------------------------------------------------------------------

HX, HLDX, HDT, HLDDT, HY, HA, HD, HBIAS, HEADS, HEAD_DIM, HGROUPS, HSTATES, HSTATE, LOW, HIGH = (
    field("head_scan", f)
    for f in ("x", "ldx", "dt", "lddt", "y", "a", "d", "bias", "heads", "head_dim", "groups", "states", "state", "low",
              "high")
)  # fmt: skip


@jit
def head_blocks(row):
    return at(row, HEADS) * ((at(row, HEAD_DIM) + GROUP - 1) // GROUP)


@jit
def head_state_step(x0, x1, decay, state, b, c, states):
    """32 channels: h = decay h + x B for each state, -> the two registers of the sum of C h."""
    y0, y1 = splat(F0), splat(F0)
    for n in range(states):
        bn, cn = broadcast_f32(b + n * 4), broadcast_f32(c + n * 4)
        h0 = fma(load_f32(state), decay, mul(x0, bn))
        h1 = fma(load_f32(state + 64), decay, mul(x1, bn))
        store_f32(state, h0)
        store_f32(state + 64, h1)
        y0, y1 = fma(h0, cn, y0), fma(h1, cn, y1)
        state += WIDE
    return y0, y1


@jit
def head_block(row, context, b, t, tokens):
    """32 channels of a head: the state is [states][32]."""
    heads, d, states, groups = at(row, HEADS), at(row, HEAD_DIM), at(row, HSTATES), at(row, HGROUPS)
    n, parts, size = heads * d, (d + GROUP - 1) // GROUP, states * WIDE
    head, part = b // parts, b % parts * GROUP
    left, group = d - part, n + head // (heads // groups) * states
    state = state_of(context, t, at(row, HSTATE) + b * size, size)
    low, high = broadcast_f32(row + LOW), broadcast_f32(row + HIGH)
    a, skip = broadcast_f32(at(row, HA) + head * 4), broadcast_f32(at(row, HD) + head * 4)
    bias = broadcast_f32(at(row, HBIAS) + head * 4)
    while t >= 0:
        x, c = at(row, HX) + t * at(row, HLDX) * 4, (head * d + part) * 4
        raw = broadcast_f32(at(row, HDT) + (t * at(row, HLDDT) + 2 * (n + groups * states) + head) * 4)
        dt = vmin(high, vmax(low, softplus(add(raw, bias))))  # in this order NaN stays
        x0, x1 = load_left(x + c, left), load_left(x + c + 64, left - 16)
        b_row = x + group * 4
        y0, y1 = head_state_step(mul(x0, dt), mul(x1, dt), exp2(mul(dt, a)), state, b_row,
                                 b_row + groups * states * 4, states)  # fmt: skip
        y = at(row, HY) + t * ((n + GROUP - 1) // GROUP * GROUP) * 4 + c
        store_f32_some(y, fma(x0, skip, y0), left)
        store_f32_some(y + 64, fma(x1, skip, y1), left - 16)
        t = next_token(context, t)


# -- its norm -------------------------------------------------------------------------------------------------------

GX, GLDX, GATE, LDG, WEIGHT, GY, GLDY, GN, PARTS, EPS, GRECORDS = (
    field("silu_rms", f)
    for f in ("x", "ldx", "gate", "ldg", "weight", "y", "ldy", "n", "parts", "eps", "records")
)


@jit
def gated_part(x, gate, weight, y, n, eps):
    """y = x silu(gate) / sqrt(its mean square + eps) * weight, for n columns."""
    total = splat(F0)
    for i in range(0, n, 16):
        value = mul(load_left(x + i * 4, n - i), silu(load_left(gate + i * 4, n - i)))
        total = fma(value, value, total)
        store_f32_some(y + i * 4, value, n - i)
    mean = reduce_add(total) / np.float32(n)
    scale = div(splat(F1), sqrt(splat(mean + eps)))
    for i in range(0, n, 16):
        value = mul(mul(load_left(y + i * 4, n - i), scale), load_left(weight + i * 4, n - i))
        store_f32_some(y + i * 4, value, n - i)


@jit
def silu_rms(row, context, thread, t, tokens):
    """The gate first, then an RMS norm of each part of the row."""
    x, gate = at(row, GX) + t * at(row, GLDX) * 4, at(row, GATE) + t * at(row, LDG) * 4
    y, size = at(row, GY) + t * at(row, GLDY) * 4, at(row, GN) // at(row, PARTS)
    for first in range(0, at(row, GN) * 4, size * 4):
        gated_part(x + first, gate + first, at(row, WEIGHT) + first, y + first, size, get_f32(row + EPS))
    if at(row, GRECORDS) != 0:
        groups = at(row, GLDY) // GROUP
        quantize_row(y, at(row, GRECORDS), groups, 0, groups, t, tokens)


KERNELS = {
    "selective_scan": lambda: each_block(scan_blocks, scan_block),
    "head_scan": lambda: each_block(head_blocks, head_block),
    "silu_rms": lambda: each_token(silu_rms),
}
