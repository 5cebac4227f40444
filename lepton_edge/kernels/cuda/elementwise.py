"""Ops that touch each token's row by itself: norms, int8 groups, activations, limits, picking rows.

Norms take a block for a token; the others a warp for each group of 32 numbers, and y of the grid says of which token.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda

from ..layout import GROUP
from ..ops import ACTIVATIONS, OPS, PACKED
from ..ops import field as place
from .common import F0, F1, at, block_sum, count, put_group, room, warp_here, warps_there
from .layout import ENDS, PICKS, POSITIONS
from .words import LANES, begin, get_f32, get_i64, jit, put_f32

__all__ = ["KERNELS", "fields", "records_kernel"]

HALF, SEVEN = np.float32(0.5), np.float32(7)
ROOT_HALF = np.float32(0.5**0.5)


def fields(op: str) -> dict[str, int]:
    """The byte offsets of an op's fields."""
    return {name: place(op, name) for name, _ in OPS[op].fields}


def norm_kernel(op: str) -> Callable[..., None]:
    """y (+)= (x - mean) / sqrt(mean((x - mean)^2) + eps) * weight + bias; for rms_norm the mean that is taken is 0."""
    f, center = fields(op), op == "layer_norm"
    X, LDX, WEIGHT, BIAS, Y, LDY, N = (f[name] for name in ("x", "ldx", "weight", "bias", "y", "ldy", "n"))
    EPS, ACCUMULATE, RECORDS, GROUPS = f["eps"], f["accumulate"], f["records"], f["groups"]

    def kernel(row, context, extra):
        n, groups, weight, bias = at(row, N), at(row, GROUPS), at(row, WEIGHT), at(row, BIAS)
        thread, threads, eps = cuda.threadIdx.x, cuda.blockDim.x, get_f32(row + EPS)
        records, accumulate, places = at(row, RECORDS), at(row, ACCUMULATE), room(row)
        first_x, ldx, first_y, ldy = at(row, X), at(row, LDX) * 4, at(row, Y), at(row, LDY) * 4
        begin()
        for t in range(cuda.blockIdx.x, count(extra), cuda.gridDim.x):
            x, y = first_x + t * ldx, first_y + t * ldy
            mean, total = F0, F0
            if center:
                for i in range(thread, n, threads):
                    mean += get_f32(x + 4 * i)
                mean = block_sum(mean) / np.float32(n)
            for i in range(thread, n, threads):
                away = get_f32(x + 4 * i) - mean
                total += away * away
            scale = F1 / math.sqrt(block_sum(total) / np.float32(n) + eps)
            for g in range(thread // LANES, groups, threads // LANES):
                value = F0
                for i in range(g * GROUP + thread % LANES, (g + 1) * GROUP, LANES):
                    value = F0
                    if i < n:
                        value = (get_f32(x + 4 * i) - mean) * scale * get_f32(weight + 4 * i)
                        if bias != 0:
                            value += get_f32(bias + 4 * i)
                        if accumulate != 0:
                            value += get_f32(y + 4 * i)
                    put_f32(y + 4 * i, value)
                if records != 0:
                    put_group(value, y + 4 * GROUP * g, records, groups, places, t, g)

    return kernel


def records_kernel(op: str, x: str, ldx: str) -> Callable[..., None]:
    """The field x of an op's row, a token's floats, as int8 groups, for the packed matrix products."""
    f = fields(op)
    X, LDX, RECORDS, GROUPS = f[x], f[ldx], f["records"], f.get("groups", 0)

    def kernel(row, context, extra):
        ld = at(row, LDX)
        groups = at(row, GROUPS) if GROUPS != 0 else ld // GROUP
        begin()
        for t in range(cuda.blockIdx.y, count(extra), cuda.gridDim.y):
            for g in range(warp_here(), groups, warps_there()):
                x = at(row, X) + (t * ld + g * GROUP) * 4
                value = get_f32(x + 4 * (cuda.threadIdx.x % LANES))
                put_group(value, x, at(row, RECORDS), groups, room(row), t, g)

    return kernel


# -- activations ----------------------------------------------------------------------------------------------------


@jit
def sigmoid(x):
    return F1 / (F1 + math.exp(-x))


@jit
def activation(kind, x):
    """ACTIVATIONS[kind] of x; see `elementwise.py` of the CPU for the papers."""
    if kind == 0:
        return x * sigmoid(x)
    if kind == 1:
        return x * (HALF + HALF * math.erf(x * ROOT_HALF))
    if kind == 2:
        return x * sigmoid(x * (F1 + np.float32(0.044715) * x * x) * np.float32(2 * (2 / np.pi) ** 0.5))
    if kind == 3:
        return x * sigmoid(np.float32(1.702) * x)
    if kind == 4:
        return max(x, F0)
    if kind == 5:
        return max(x, F0) * max(x, F0)
    gate = min(x, SEVEN)
    return gate * sigmoid(np.float32(1.702) * gate)


assert ACTIVATIONS == ("silu", "gelu", "gelu_tanh", "quick_gelu", "relu", "relu2", "clamped_swiglu")
CLAMPED = ACTIVATIONS.index("clamped_swiglu")


def activate_kernel(op: str) -> Callable[..., None]:
    """y = activation(gate) (* up), and as int8 groups; the second half of the ops `gated_...`, too."""
    f = fields(op)
    GATE, UP, KIND, RECORDS = (f[name] for name in ("gate", "up", "activation", "records"))
    Y, LDX, LDY = f.get("y", f["gate"]), f.get("ldx", f.get("ldy")), f["ldy"]
    gated = op != "activate"
    UP_WEIGHT = f.get("up_w", 0)

    def kernel(row, context, extra):
        ldx, ldy, kind, up = at(row, LDX), at(row, LDY), at(row, KIND), at(row, UP)
        groups = ldy // GROUP
        if gated and at(row, UP_WEIGHT) == 0:
            up = 0
        gate, y, records, places = at(row, GATE), at(row, Y), at(row, RECORDS), room(row)
        begin()
        for t in range(cuda.blockIdx.y, count(extra), cuda.gridDim.y):
            for g in range(warp_here(), groups, warps_there()):
                value = F0
                for i in range(g * GROUP + cuda.threadIdx.x % LANES, (g + 1) * GROUP, LANES):
                    factor = get_f32(up + (t * ldx + i) * 4) if up != 0 else F1
                    value = activation(kind, get_f32(gate + (t * ldx + i) * 4))
                    if kind == CLAMPED and up != 0:
                        factor = max(-SEVEN, min(SEVEN, factor)) + F1
                    value *= factor
                    put_f32(y + (t * ldy + i) * 4, value)
                if records != 0:
                    put_group(value, y + (t * ldy + g * GROUP) * 4, records, groups, places, t, g)

    return kernel


def squash_kernel() -> Callable[..., None]:
    """y = tanh(y), or sigmoid(y), and as int8 groups."""
    f = fields("squash")
    Y, LD, N, LOGISTIC, RECORDS = (f[name] for name in ("y", "ld", "n", "logistic", "records"))

    def kernel(row, context, extra):
        ld, n = at(row, LD), at(row, N)
        groups = ld // GROUP
        begin()
        for t in range(cuda.blockIdx.y, count(extra), cuda.gridDim.y):
            for g in range(warp_here(), groups, warps_there()):
                value, y = F0, at(row, Y) + (t * ld + g * GROUP) * 4
                for i in range(cuda.threadIdx.x % LANES, GROUP, LANES):
                    value = get_f32(y + 4 * i)
                    if g * GROUP + i < n:
                        value = sigmoid(value) if at(row, LOGISTIC) != 0 else math.tanh(value)
                        put_f32(y + 4 * i, value)
                if at(row, RECORDS) != 0:
                    put_group(value, y, at(row, RECORDS), groups, room(row), t, g)

    return kernel


# -- limits, and rows by number -------------------------------------------------------------------------------------


def limit_kernel() -> Callable[..., None]:
    """x within +-limit, or softly, limit * tanh(x / limit), in place."""
    f = fields("limit")
    X, LDX, N, LIMIT, SOFT = (f[name] for name in ("x", "ldx", "n", "limit", "soft"))

    def kernel(row, context, extra):
        n, top = at(row, N), get_f32(row + LIMIT)
        groups = (n + GROUP - 1) // GROUP
        begin()
        for t in range(cuda.blockIdx.y, count(extra), cuda.gridDim.y):
            for g in range(warp_here(), groups, warps_there()):
                for i in range(g * GROUP + cuda.threadIdx.x % LANES, min(n, (g + 1) * GROUP), LANES):
                    x = at(row, X) + (t * at(row, LDX) + i) * 4
                    value = get_f32(x)
                    put_f32(x, top * math.tanh(value / top) if at(row, SOFT) != 0 else max(-top, min(top, value)))

    return kernel


def grow_kernel() -> Callable[..., None]:
    """x[t] *= table[position[t] // every]."""
    f = fields("grow")
    X, LDX, N, TABLE, EVERY = (f[name] for name in ("x", "ldx", "n", "table", "every"))

    def kernel(row, context, extra):
        n = at(row, N)
        begin()
        for t in range(cuda.blockIdx.y, count(extra), cuda.gridDim.y):
            by = get_f32(at(row, TABLE) + get_i64(at(context, POSITIONS) + 8 * t) // at(row, EVERY) * 4)
            for i in range(cuda.threadIdx.x, n, cuda.blockDim.x):
                x = at(row, X) + (t * at(row, LDX) + i) * 4
                put_f32(x, get_f32(x) * by)

    return kernel


def gather_kernel() -> Callable[..., None]:
    """y[m] = x[wanted[m]]."""
    f = fields("gather")
    X, LDX, Y, LDY, N = (f[name] for name in ("x", "ldx", "y", "ldy", "n"))

    def kernel(row, context, extra):
        groups = at(row, N) // GROUP
        begin()
        for m in range(cuda.blockIdx.y, count(extra), cuda.gridDim.y):
            t = get_i64(at(context, PICKS) + 8 * m)
            for i in range(warp_here() * LANES + cuda.threadIdx.x % LANES, groups * GROUP, LANES * warps_there()):
                put_f32(at(row, Y) + (m * at(row, LDY) + i) * 4, get_f32(at(row, X) + (t * at(row, LDX) + i) * 4))

    return kernel


def average_kernel() -> Callable[..., None]:
    """y[m] = the mean of x over the sequence that begins with token wanted[m] and ends at its last position."""
    f = fields("average")
    X, LDX, Y, LDY, N = (f[name] for name in ("x", "ldx", "y", "ldy", "n"))

    def kernel(row, context, extra):
        groups = at(row, N) // GROUP
        begin()
        for m in range(cuda.blockIdx.y, count(extra), cuda.gridDim.y):
            first = get_i64(at(context, PICKS) + 8 * m)
            tokens = get_i64(at(context, ENDS) + 8 * first) + 1
            for i in range(warp_here() * LANES + cuda.threadIdx.x % LANES, groups * GROUP, LANES * warps_there()):
                total = F0
                for t in range(first, first + tokens):
                    total += get_f32(at(row, X) + (t * at(row, LDX) + i) * 4)
                put_f32(at(row, Y) + (m * at(row, LDY) + i) * 4, total / np.float32(tokens))

    return kernel


KERNELS: dict[str, Callable[[], Any]] = {
    "rms_norm": lambda: norm_kernel("rms_norm"),
    "layer_norm": lambda: norm_kernel("layer_norm"),
    "quantize": lambda: records_kernel("quantize", "x", "ldx"),
    "activate": lambda: activate_kernel("activate"),
    **{f"activate_{name}": lambda name=name: activate_kernel(f"gated_{name}") for name in PACKED[:2]},
    "squash": squash_kernel,
    "limit": limit_kernel,
    "grow": grow_kernel,
    "gather": gather_kernel,
    "average": average_kernel,
}
