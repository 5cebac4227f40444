"""y = W x for weights as they lie in a checkpoint: row-major f32, f16 or bf16, and f32 activations.

A register tile is `tokens` x `rows` accumulators of 16 columns each, summed across lanes at the end.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from .common import at, count, take
from .layout import THREADS
from .ops import field
from .simd.words import ISA, i64, jit, unrolled, zeros

SIZES = {"f32": 4, "f16": 2, "bf16": 2}
ROW_FIELDS = ("x", "w", "y", "ldy", "rows", "bias", "accumulate", "ldx", "columns")
PANEL_BYTES = 256 << 10  # weights that stay in L2 while all tokens pass
TOKENS, ROWS = ISA.plain_tile


def products(name: str, tokens: int, rows: int, ragged: bool) -> Callable:
    """A tile's accumulators plus the products of 16 columns, or of the first n columns where `ragged`."""

    def body(isa: Any, total: list, x: Any, ldx: Any, w: Any, ldw: Any, n: Any) -> Sequence:
        def load(kind: str, address: Any) -> Any:
            return getattr(isa, f"load_{kind}_some")(address, n) if ragged else getattr(isa, f"load_{kind}")(address)

        weights = []
        for _ in range(rows):
            weights.append(load(name, w))
            w = isa.b.add(w, ldw)
        for t in range(tokens):
            values = load("f32", x)
            x = isa.b.add(x, ldx)
            for r in range(rows):
                total[t * rows + r] = isa.fma(values, weights[r], total[t * rows + r])
        return total

    return unrolled(body, tokens * rows, i64, i64, i64, i64, i64)


def lane_sums(tokens: int, rows: int) -> Callable:
    """A word that sums the lanes of every accumulator, adds bias and old value, and stores tokens x rows floats."""

    def body(isa: Any, total: list, y: Any, ldy: Any, bias: Any, accumulate: Any) -> Sequence:
        for t in range(tokens):
            for r in range(rows):
                value = isa.reduce_add(total[t * rows + r])
                for base, condition in ((bias, bias), (y, accumulate)):
                    value = isa.add_if(value, base, 4 * r, condition)
                isa.store(y, 4 * r, value)
            y = isa.b.add(y, ldy)
        return total

    return unrolled(body, tokens * rows, i64, i64, i64, i64)


def tile_kernel(name: str, tokens: int, rows: int) -> Callable:
    """One tile over all its columns."""
    zero, store, size = zeros(tokens * rows), lane_sums(tokens, rows), SIZES[name]
    whole, ragged = products(name, tokens, rows, False), products(name, tokens, rows, True)

    @jit
    def tile(x, ldx, w, columns, y, ldy, bias, accumulate):
        total = zero()
        ldw = columns * size
        for _ in range(columns // 16):
            total = whole(total, x, ldx, w, ldw, 16)
            x += 64
            w += 16 * size
        if columns % 16 != 0:
            total = ragged(total, x, ldx, w, ldw, columns % 16)
        store(total, y, ldy, bias, accumulate)

    return tile


def strip_kernel(name: str, tokens: int) -> Callable:
    """Tiles of `tokens` tokens from `first` on, as many as are whole, over the rows r0..r1; -> the next token."""
    wide, single, size = tile_kernel(name, tokens, ROWS), tile_kernel(name, tokens, 1), SIZES[name]

    @jit
    def strip(first, count, r0, r1, x, ldx, w, columns, y, ldy, bias, accumulate):
        while first + tokens <= count:
            r = r0
            while r < r1:
                wr, yr = w + r * columns * size, y + first * ldy + r * 4
                br = bias + r * 4 if bias != 0 else 0
                if r + ROWS <= r1:
                    wide(x + first * ldx, ldx, wr, columns, yr, ldy, br, accumulate)
                    r += ROWS
                else:
                    single(x + first * ldx, ldx, wr, columns, yr, ldy, br, accumulate)
                    r += 1
            first += tokens
        return first

    return strip


def matmul(name: str) -> Callable:
    """The kernel of op `matmul_<name>`: panels of rows are shared out, all tokens pass over a panel."""
    op, size = f"matmul_{name}", SIZES[name]
    X, W, Y, LDY, N, BIAS, ACCUMULATE, LDX, COLUMNS = (field(op, f) for f in ROW_FIELDS)
    many, one = strip_kernel(name, TOKENS), strip_kernel(name, 1)

    @jit
    def kernel(row, context, thread):
        tokens = count(row, context)
        if tokens == 0:
            return
        n, columns = at(row, N), at(row, COLUMNS)
        ldx, ldy = at(row, LDX) * 4, at(row, LDY) * 4
        x, w, y, bias, accumulate = at(row, X), at(row, W), at(row, Y), at(row, BIAS), at(row, ACCUMULATE)
        panel = max(1, min(n // (at(context, THREADS) * 4), PANEL_BYTES // (columns * size)))
        panel = (panel + ROWS - 1) // ROWS * ROWS
        while True:
            r0 = take(row, context, panel)
            if r0 >= n:
                break
            r1 = min(n, r0 + panel)
            first = many(0, tokens, r0, r1, x, ldx, w, columns, y, ldy, bias, accumulate)
            one(first, tokens, r0, r1, x, ldx, w, columns, y, ldy, bias, accumulate)

    return kernel


KERNELS = {f"matmul_{name}": partial(matmul, name) for name in SIZES}
