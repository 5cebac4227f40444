"""y = W x for bf16 weights in rows, where the machine multiplies matrices (`ISA.grid`): for one token as for many.

Activations are rounded to bf16 once for some columns, in lots of 16 tokens that zeros make whole.  Rows are transposed
in lots of 16, two at a time, and all tokens pass over them; for few tokens rows are read where they lie.  The sums lie
in y meanwhile, and begin with what the result is added to; those of a lot that is not whole lie in a tile of the
thread's.  A token's sums have one order, column after column, whatever else is in the batch.
"""

from collections.abc import Callable
from typing import Any

from .common import F0
from .layout import PAIR_COLUMNS, PAIR_PANEL, PAIR_SPAN
from .plain_kinds import Kind
from .simd.words import add, i64, jit, load_f32_some, splat, store_f32, store_f32_some, void, word

TILE = 16  # tokens, or rows
COLUMNS = 32  # of a step
STEP = TILE * COLUMNS * 2  # bytes of a step of 16 tokens or rows
EDGE = 2 * TILE * 4  # bytes of a token in the thread's tile of sums
FETCH = 512  # bytes that a row is fetched ahead

open_pairs, close_pairs = word(lambda isa: isa.open_grid(2 * COLUMNS), void), word(lambda isa: isa.close_grid(), void)


def _round(isa: Any, x: Any, to: Any) -> None:
    isa.store(to, 0, isa.round_pairs(isa.load_f32(x), isa.load_f32(x, 64)))


round_step = word(_round, void, i64, i64)


@jit
def round_tokens(x, ldx, tokens, steps, to):
    """Activations to [lots][steps][16 tokens][32] bf16."""
    for t in range((tokens + TILE - 1) // TILE * TILE):
        place = to + t // TILE * steps * STEP + t % TILE * (2 * COLUMNS)
        for s in range(steps):
            if t < tokens:
                round_step(x + t * ldx + s * (4 * COLUMNS), place + s * STEP)
            else:
                store_f32(place + s * STEP, splat(F0))


def transpose_step(kind: Kind, ragged: bool) -> Callable:
    """A word: 32 columns of 16 rows to [16 pairs][16 rows][2]; where `ragged`, the first n, and zeros.  Rows past the
    last one repeat it."""

    def emit(isa: Any, w: Any, ldw: Any, rows: Any, to: Any, n: Any) -> None:
        registers = []
        for r in range(TILE):
            registers.append(kind.weights(isa, w, 0, n if ragged else None))
            isa.prefetch(w, FETCH)
            w = isa.b.add(w, isa.b.select(isa.b.icmp_signed(">", rows, rows.type(r + 1)), ldw, ldw.type(0)))
        for i, pairs in enumerate(isa.transpose(registers)):
            isa.store(to, 64 * i, pairs)

    return word(emit, void, i64, i64, i64, i64, i64)


def transpose_kernel(kind: Kind) -> Callable:
    """Columns of at most 16 rows to [steps][16 pairs][16 rows][2]."""
    size, whole, ragged = kind.size, transpose_step(kind, False), transpose_step(kind, True)

    @jit
    def transpose(w, ldw, rows, columns, to):
        for _ in range(columns // COLUMNS):
            whole(w, ldw, rows, to, 0)
            w += COLUMNS * size
            to += STEP
        if columns % COLUMNS != 0:
            ragged(w, ldw, rows, to, columns % COLUMNS)

    return transpose


@jit
def start(y, ldy, tokens, rows, bias, accumulate):
    """y before the products: what it is added to, and the bias."""
    for t in range(tokens):
        for r in range(0, rows, TILE):
            at, left = y + t * ldy + r * 4, rows - r
            value = load_f32_some(at, left) if accumulate != 0 else splat(F0)
            store_f32_some(at, add(value, load_f32_some(bias + r * 4, left)) if bias != 0 else value, left)


@jit
def move(source, lds, target, ldt, tokens, rows):
    """Sums of some tokens and rows from one place to another."""
    for t in range(tokens):
        for r in range(0, rows, TILE):
            store_f32_some(target + t * ldt + r * 4, load_f32_some(source + t * lds + r * 4, rows - r), rows - r)


def product_word(tokens: int, rows: int) -> Callable:
    """A word: so many lots of tokens by so many of rows; see `AMX.grid_pairs`."""

    def emit(isa: Any, x: Any, w: Any, apart: Any, steps: Any, y: Any, ldy: Any) -> None:
        isa.grid_pairs(x, w, tokens, rows, apart, steps, y, ldy)

    return word(emit, void, i64, i64, i64, i64, i64, i64)


two_two, two_one, one_two, one_one = (product_word(t, r) for t in (2, 1) for r in (2, 1))


def rows_word(lots: int) -> Callable:
    """A word: so many lots of rows; see `AMX.grid_rows`."""
    return word(lambda isa, w, ldw, ahead, x, steps, sums: isa.grid_rows(w, ldw, lots, ahead, x, steps, sums), void,
                *[i64] * 6)  # fmt: skip


def _turn(isa: Any, source: Any, lds: Any, to: Any, ldt: Any) -> None:
    """16 x 16 words to where they go, as columns."""
    rows = []
    for _ in range(TILE):
        rows.append(isa.load_f32(source))
        source = isa.b.add(source, lds)
    for column in isa.transpose(rows):
        isa.store(to, 0, column)
        to = isa.b.add(to, ldt)


turn, one_lot, two_lots = word(_turn, void, *[i64] * 4), rows_word(1), rows_word(2)


@jit
def pass_one(x, w, apart, tokens, rows, steps, y, ldy, edge):
    """At most 16 tokens over at most 32 rows; by way of `edge` where a lot is not whole."""
    ragged, to, ld = tokens < TILE or rows % TILE != 0, y, ldy
    if ragged:
        move(y, ldy, edge, EDGE, tokens, rows)
        to, ld = edge, EDGE
    if rows > TILE:
        one_two(x, w, apart, steps, to, ld)
    else:
        one_one(x, w, apart, steps, to, ld)
    if ragged:
        move(edge, EDGE, y, ldy, tokens, rows)


@jit
def pass_over(x, w, tokens, rows, steps, y, ldy, edge):
    """All tokens over at most 32 rows."""
    apart, t = steps * STEP, 0
    while t < tokens:
        xt, yt, width = x + t // TILE * apart, y + t * ldy, 2 * TILE
        if t + width > tokens or rows % TILE != 0:
            width = TILE
            pass_one(xt, w, apart, min(TILE, tokens - t), rows, steps, yt, ldy, edge)
        elif rows > TILE:
            two_two(xt, w, apart, steps, yt, ldy)
        else:
            two_one(xt, w, apart, steps, yt, ldy)
        t += width


def pair_kernel(kind: Kind) -> Callable:
    """All tokens and some rows, as `matmul_plain.product_of` makes it."""
    size, transpose = kind.size, transpose_kernel(kind)

    @jit
    def span(tokens, x, ldx, w, columns, y, ldy, rows, scratch):
        panel, ldw = scratch + PAIR_SPAN * PAIR_COLUMNS * 2, columns * size
        edge, lots = panel + PAIR_PANEL * 64, (tokens + TILE - 1) // TILE
        most = min(PAIR_PANEL, PAIR_SPAN * PAIR_COLUMNS // (lots * TILE)) // COLUMNS * COLUMNS
        for k in range(0, columns, most):
            n = min(most, columns - k)
            steps = (n + COLUMNS - 1) // COLUMNS
            round_tokens(x + k * 4, ldx, tokens, steps, scratch)
            for r in range(0, rows, 2 * TILE):
                here = min(2 * TILE, rows - r)
                for i in range(0, here, TILE):
                    transpose(w + (r + i) * ldw + k * size, ldw, here - i, n, panel + i // TILE * steps * STEP)
                pass_over(scratch, panel, tokens, here, steps, y + r * 4, ldy, edge)

    @jit
    def few(tokens, x, ldx, w, columns, y, ldy, rows, following, scratch):
        """At most 16 tokens and whole lots of rows, which are read where they lie: from memory 2 times as fast."""
        panel, ldw = scratch + PAIR_SPAN * PAIR_COLUMNS * 2, columns * size
        sums, edge, most = panel, panel + PAIR_PANEL * 64, PAIR_SPAN * PAIR_COLUMNS // TILE
        for k in range(0, columns, most):
            n = min(most, columns - k)
            steps = n // COLUMNS
            round_tokens(x + k * 4, ldx, tokens, steps, scratch)
            for s in range(steps):
                turn(scratch + s * STEP, 64, scratch + s * STEP, 64)
            for r in range(0, rows, 2 * TILE):
                here, at = min(2 * TILE, rows - r), w + r * ldw + k * size
                ahead = w + (r + here if r + here < rows else following) * ldw
                move(y + r * 4, ldy, edge, EDGE, tokens, here)
                turn(edge, EDGE, sums, 64)
                if here > TILE:
                    turn(edge + 64, EDGE, sums + 1024, 64)
                    two_lots(at, ldw, ahead, scratch, steps, sums)
                    turn(sums + 1024, 64, edge + 64, EDGE)
                else:
                    one_lot(at, ldw, ahead, scratch, steps, sums)
                turn(sums, 64, edge, EDGE)
                move(edge, EDGE, y + r * 4, ldy, tokens, here)

    @jit
    def run(tokens, x, ldx, w, columns, y, ldy, bias, accumulate, rows, following, scratch):
        open_pairs()
        start(y, ldy, tokens, rows, bias, accumulate)
        if tokens <= TILE and columns % COLUMNS == 0:
            whole = rows // TILE * TILE
            few(tokens, x, ldx, w, columns, y, ldy, whole, following, scratch)
            w, y, rows = w + whole * columns * size, y + whole * 4, rows - whole
        for t in range(0, tokens, PAIR_SPAN):
            span(min(PAIR_SPAN, tokens - t), x + t * ldx, ldx, w, columns, y + t * ldy, ldy, rows, scratch)
        close_pairs()

    return run
