"""y[t] = softmax(q k / scale) v of any kind, a warp for each token and query head: one position after the other.

It knows all that `kernels/ops.py` says of attention; what most models need has a faster kernel (`attention_fast.py`).
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda

from ..layout import EDGE, PAGE
from ..ops import CACHES, CAUSAL, MEMORY
from .cache import cache, page_of
from .common import F0, F1, at, count, warp_here, warps_there
from .elementwise import fields, records_kernel
from .layout import ENDS, MAX_HEAD, MEMORY_ENDS, MEMORY_PAGES, PAGES, POSITIONS
from .words import LANES, begin, get_f32, get_i64, jit, put_f32, warp_sum

__all__ = ["KERNELS", "F", "limits"]

F = fields("attention_f32")
LOWEST = np.float32(-1e30)
HELD = MAX_HEAD // LANES  # numbers of a head that a lane holds
LN2 = np.float32(math.log(2))
(
    Q, LDQ, Q_STEP, HEADS, KV_HEADS, HEAD_DIM, LAYER, Y, LDY, SCALE, WINDOW, CAP, SLOPES, SINKS, SIGHT, DISTANCES, SPAN,
    Q_TERMS, K_TERMS, LDR, LDH, INDEX, RECORDS,
) = (F[name] for name in (
    "q", "ldq", "q_step", "heads", "kv_heads", "head_dim", "layer", "y", "ldy", "scale", "window", "cap", "slopes",
    "sinks", "sight", "distances", "span", "q_terms", "k_terms", "ldr", "ldh", "index", "records",
))  # fmt: skip


@jit
def limits(row, context, t):
    """(first, last) position that token t sees."""
    position, sight, window = get_i64(at(context, POSITIONS) + 8 * t), at(row, SIGHT), at(row, WINDOW)
    last = position
    if sight != CAUSAL:
        last = get_i64(at(context, MEMORY_ENDS if sight == MEMORY else ENDS) + 8 * t)
    if window == 0:
        return np.int64(0), last
    return max(0, position + 1 - window), min(last, position + window - 1)


@jit
def bent(row, score, t, h, away):
    """A score with all that is added to it; away: from the token's position to the one seen."""
    score *= get_f32(row + SCALE)
    cap = get_f32(row + CAP)
    if cap != F0:
        score = cap * math.tanh(score / cap)
    if at(row, SLOPES) != 0:
        score += get_f32(at(row, SLOPES) + 4 * h) * np.float32(away)
    span = at(row, SPAN)
    if at(row, DISTANCES) != 0:
        width = (2 * (span + EDGE) + 1 + 15) // 16 * 16
        place = h * width + max(-span, min(span, away)) + span + EDGE
        score += get_f32(at(row, DISTANCES) + 4 * place) * LN2
    if at(row, Q_TERMS) != 0:
        place = h * at(row, LDH) + np.int64(get_f32(at(row, INDEX) + 4 * (away + span)))
        of_q = get_f32(at(row, Q_TERMS) + 4 * (t * at(row, LDR) + place))
        of_k = get_f32(at(row, K_TERMS) + 4 * ((t + away) * at(row, LDR) + place))
        score += get_f32(row + SCALE) * (of_q + of_k)
    return score


def attention_kernel(name: str) -> Callable[..., None]:
    kind = cache(name)
    head_bytes, get = kind.head, kind.get

    def kernel(row, context, extra):
        total = cuda.local.array(HELD, np.float32)
        heads, kv_heads, d = at(row, HEADS), at(row, KV_HEADS), at(row, HEAD_DIM)
        group, lane = heads // kv_heads, cuda.threadIdx.x % LANES
        begin()
        pages = MEMORY_PAGES if at(row, SIGHT) == MEMORY else PAGES
        for j in range(warp_here(), count(extra) * heads, warps_there()):
            t, h = j // heads, j % heads
            g = h // group
            q = at(row, Q) + (t * at(row, LDQ) + g * at(row, Q_STEP) + (h - g * group) * d) * 4
            position = get_i64(at(context, POSITIONS) + 8 * t)
            first, last = limits(row, context, t)
            peak, weight = LOWEST, F0
            if at(row, SINKS) != 0:
                peak, weight = get_f32(at(row, SINKS) + 4 * h), F1
            for i in range(lane, d, LANES):
                total[i // LANES] = F0
            for p in range(first, last + 1):
                head = page_of(context, pages, t, p) + at(row, LAYER) + g * head_bytes(d)
                score = F0
                for i in range(lane, d, LANES):
                    score += get_f32(q + 4 * i) * get(head, 0, p % PAGE, d, i)
                score = bent(row, warp_sum(score), t, h, p - position)
                new = max(peak, score)
                old, mine = math.exp(peak - new), math.exp(score - new)
                peak, weight = new, weight * old + mine
                for i in range(lane, d, LANES):
                    total[i // LANES] = total[i // LANES] * old + mine * get(head, 1, p % PAGE, d, i)
            y = at(row, Y) + (t * at(row, LDY) + h * d) * 4
            for i in range(lane, d, LANES):
                put_f32(y + 4 * i, total[i // LANES] / weight)

    return kernel


KERNELS: dict[str, Callable[[], Any]] = {
    **{f"attention_{name}": lambda name=name: attention_kernel(name) for name in CACHES},
    "attention_records": lambda: records_kernel("attention_f32", "y", "ldy"),
}
