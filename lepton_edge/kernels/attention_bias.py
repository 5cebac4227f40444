"""What is done to scores between the product and the softmax: a soft cap, ALiBi, tables of distances, DeBERTa's terms.

Scores are logarithms to base 2.  What an item needs for that lies in `BENDS` bytes of its thread's scratch.
"""

import numpy as np

from .common import F0, F1, at, get_f32
from .layout import (
    CAPPED,
    EDGE,
    FACTOR,
    INDEX,
    KEY_TERMS,
    LIMIT,
    MAX_QUERY_ROWS,
    NUMBERS,
    PAGE,
    REACH,
    ROW_BIAS,
    ROW_TERMS,
    SLOPE,
    TERMS_LD,
)
from .ops import field
from .simd.words import add, get_i64, jit, load_f32, mul, put_f32, put_i64, splat, store_f32, tanh

__all__ = ["LOG2E", "bend", "start_bends", "start_row_bends"]

CAP, SLOPES, DISTANCES, SPAN, Q_TERMS, K_TERMS, LDR, LDH, INDICES, SCALE = (
    field("attention_f32", f)
    for f in ("cap", "slopes", "distances", "span", "q_terms", "k_terms", "ldr", "ldh", "index", "scale")
)
LOG2E = np.float32(1.4426950408889634)


@jit
def start_bends(row, bends, head, first):
    """Prepare what bends an item's scores; -> whether anything does.

    head: the first of the item's query heads, its only one where there are DeBERTa's terms.  first: the first token of
    its sequence.
    """
    cap = get_f32(row + CAP)
    if cap == F0 and at(row, SLOPES) == 0 and at(row, DISTANCES) == 0 and at(row, Q_TERMS) == 0:
        return False
    for i in range(0, NUMBERS, 64):
        store_f32(bends + i, splat(F0))
    put_f32(bends + CAPPED, cap * LOG2E)
    for i in range(16):
        put_f32(bends + NUMBERS + 4 * i, np.float32(i))
    for r in range(MAX_QUERY_ROWS):
        put_i64(bends + ROW_BIAS + 8 * r, 0)
        put_i64(bends + ROW_TERMS + 8 * r, 0)
    put_i64(bends + REACH, at(row, SPAN))
    if at(row, Q_TERMS) != 0:
        put_i64(bends + KEY_TERMS, at(row, K_TERMS) + (first * at(row, LDR) + head * at(row, LDH)) * 4)
        put_i64(bends + TERMS_LD, at(row, LDR) * 4)
        put_i64(bends + INDEX, at(row, INDICES) + at(row, SPAN) * 4)
        put_f32(bends + FACTOR, get_f32(row + SCALE) * LOG2E)
    return True


@jit
def start_row_bends(row, bends, r, token, head):
    """The same for query row r of a chunk: of a token of the batch, and a query head."""
    if at(row, SLOPES) != 0:
        put_f32(bends + SLOPE + 4 * r, get_f32(at(row, SLOPES) + 4 * head) * LOG2E)
    if at(row, DISTANCES) != 0:
        width = (2 * (at(row, SPAN) + EDGE) + 16) // 16 * 16
        put_i64(bends + ROW_BIAS + 8 * r, at(row, DISTANCES) + (head * width + at(row, SPAN) + EDGE) * 4)
    if at(row, Q_TERMS) != 0:
        put_i64(bends + ROW_TERMS + 8 * r, at(row, Q_TERMS) + (token * at(row, LDR) + head * at(row, LDH)) * 4)


@jit
def bend(rows, b0, b1, base, limits, bends, scores):
    """Bend the scores [rows][PAGE] of positions b0..b1 of the page that begins at position `base`."""
    cap = get_f32(bends + CAPPED)
    for r in range(rows):
        row, slope, position = scores + r * PAGE * 4, get_f32(bends + SLOPE + 4 * r), get_i64(limits + LIMIT * r + 16)
        if cap > 0:
            for b in range(b0, b1, 16):
                store_f32(row + b * 4, mul(tanh(mul(load_f32(row + b * 4), splat(F1 / cap))), splat(cap)))
        if slope != 0:  # ALiBi (arXiv:2108.12409)
            step = mul(load_f32(bends + NUMBERS), splat(slope))
            for b in range(b0, b1, 16):
                distance = add(step, splat(np.float32(base - position + b) * slope))
                store_f32(row + b * 4, add(load_f32(row + b * 4), distance))
        table = get_i64(bends + ROW_BIAS + 8 * r)
        if table != 0:  # T5 (arXiv:1910.10683), MPNet
            span = get_i64(bends + REACH)
            for b in range(b0, b1, 16):
                away = max(-span - EDGE, min(span, base + b - position))
                store_f32(row + b * 4, add(load_f32(row + b * 4), load_f32(table + away * 4)))
        if get_i64(bends + ROW_TERMS + 8 * r) != 0:
            disentangle(r, b0, min(b1, get_i64(limits + LIMIT * r + 8) + 1 - base), base - position, base, bends, row)


@jit
def disentangle(r, b0, b1, away, base, bends, row):
    """Add what the query says of the distance, and what each key says of it (arXiv:2006.03654)."""
    terms, keys, span = get_i64(bends + ROW_TERMS + 8 * r), get_i64(bends + KEY_TERMS), get_i64(bends + REACH)
    factor, ld, index = get_f32(bends + FACTOR), get_i64(bends + TERMS_LD), get_i64(bends + INDEX)
    for b in range(b0, b1):
        i = np.int64(get_f32(index + max(-span, min(span, away + b)) * 4)) * 4
        both = get_f32(terms + i) + get_f32(keys + (base + b) * ld + i)
        put_f32(row + b * 4, get_f32(row + b * 4) + both * factor)
