"""y = W x for weights as they lie in a checkpoint: row-major f32, f16 or bf16, and f32 activations.

Four rows share the registers of x.  The lanes of an accumulator are columns: they are summed after each chunk of
columns, and the sums are added to y.  So a token's sums have one order, whatever else is in the batch.

One token reads the rows where they lie.  Several copy a panel of rows into L1 first: as floats, and a step's registers
of four rows side by side, so that they are converted once for all tokens and rows far apart share no cache set.
Where the machine multiplies pairs of bf16, a register holds twice as many columns, and nothing is converted but x.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from .common import at, copy_of, count, take
from .experts import each_expert, row_of, weight_of
from .layout import CHUNK, PANEL_ROWS, SCRATCH, SCRATCH_STRIDE, THREADS
from .ops import field
from .simd.words import ISA, f32xn, i64, jit, unrolled, void, word, zeros

SIZES = {"f32": 4, "f16": 2, "bf16": 2}
ROW_FIELDS = (
    "x", "w", "y", "ldy", "rows", "bias", "accumulate", "own", "ldx", "columns", "order", "top_k",
)  # fmt: skip
ROWS = 4  # in a register tile
REGISTER = 4 * ISA.lanes  # bytes
SHARE_BYTES = 256 << 10  # of weights that a thread takes at once, when there is one token


class Kind:
    """What a step of one register of weights does for a format on the instruction set that is being built."""

    def __init__(self, name: str) -> None:
        self.name, self.size = name, SIZES[name]
        self.pairs = name == "bf16" and ISA.bf16_pairs
        self.columns = ISA.lanes * (2 if self.pairs else 1)

    def weights(self, isa: Any, address: Any, offset: int = 0, n: Any = None) -> Any:
        """One register of a row in memory; its first n columns where n is given, and zeros."""
        if self.pairs:
            return isa.load_pairs(address, offset, n)
        return isa.load_row(self.name, address, offset, n)

    def x(self, isa: Any, address: Any, offset: int = 0) -> Any:
        """The activations that meet one register of weights."""
        if self.pairs:
            return isa.round_pairs(*(isa.load_row("f32", address, offset + part) for part in (0, REGISTER)))
        return isa.load_row("f32", address, offset)

    def multiply(self, isa: Any, x: Any, weights: Any, total: Any) -> Any:
        """Accumulator plus products."""
        return isa.dot_bf16(total, weights, x) if self.pairs else isa.fma(x, weights, total)


def row_products(kind: Kind, steps: int) -> Callable:
    """The accumulators of one token and four rows, plus `steps` registers of each row at `w`.

    The four rows that follow are fetched: where one row ends and another begins, the hardware does not foresee it.
    """

    def body(isa: Any, total: list, x: Any, w: Any, ldw: Any, ahead: Any) -> Sequence:
        rows = [w]
        for _ in range(ROWS - 1):
            rows.append(isa.b.add(rows[-1], ldw))
        for r in rows:
            isa.prefetch(isa.b.add(r, ahead))
        for step in range(steps):
            values = kind.x(isa, x, step * kind.columns * 4)
            for r, address in enumerate(rows):
                weights = kind.weights(isa, address, step * kind.columns * kind.size)
                total[r] = kind.multiply(isa, values, weights, total[r])
        return total

    return unrolled(body, ROWS, i64, i64, i64, i64, register=f32xn)


def ragged_products(kind: Kind) -> Callable:
    """The same for one register of each row, of whose columns only the first n are there."""

    def body(isa: Any, total: list, x: Any, w: Any, ldw: Any, n: Any) -> Sequence:
        values = kind.x(isa, x)
        for r in range(ROWS):
            total[r] = kind.multiply(isa, values, kind.weights(isa, w, 0, n), total[r])
            w = isa.b.add(w, ldw)
        return total

    return unrolled(body, ROWS, i64, i64, i64, i64, register=f32xn)


def panel_products(kind: Kind, tokens: int) -> Callable:
    """The accumulators of some tokens and four rows, plus one register of each row from a panel.

    Some of the next tile's activations at `ahead` are fetched: rows of x are short here and far apart.
    """

    def body(isa: Any, total: list, x: Any, ldx: Any, panel: Any, ahead: Any) -> Sequence:
        for _ in range(fetched_tokens(tokens)):
            isa.prefetch(ahead)
            ahead = isa.b.add(ahead, ldx)
        values = []
        for _ in range(tokens):
            values.append(kind.x(isa, x))
            x = isa.b.add(x, ldx)
        for r in range(ROWS):
            weights = isa.load_row("f32", panel, r * REGISTER)
            for t in range(tokens):
                total[t * ROWS + r] = kind.multiply(isa, values[t], weights, total[t * ROWS + r])
        return total

    return unrolled(body, tokens * ROWS, i64, i64, i64, i64, register=f32xn)


def fetched_tokens(tokens: int) -> int:
    """Tokens of the next tile that each four rows of a panel fetch: together they fetch them all."""
    return -(-tokens // (PANEL_ROWS // ROWS))


def add_sums(tokens: int) -> Callable:
    """A word that adds a chunk's sums to y; the first chunk's to the bias, and to y only where it accumulates."""

    def body(isa: Any, total: list, y: Any, ldy: Any, bias: Any, accumulate: Any) -> Sequence:
        for t in range(tokens):
            value = isa.sum_four(*total[t * ROWS : (t + 1) * ROWS])
            value = isa.add_if(value, bias, 0, bias)
            value = isa.add_if(value, y, 0, accumulate)
            isa.store(y, 0, value)
            y = isa.b.add(y, ldy)
        return total

    return unrolled(body, tokens * ROWS, i64, i64, i64, i64, register=f32xn)


def copy_step(kind: Kind, ragged: bool) -> Callable:
    """A word that copies one register of a row into a panel; where `ragged`, its first n columns, and zeros."""

    def emit(isa: Any, w: Any, panel: Any, n: Any) -> None:
        isa.store(panel, 0, kind.weights(isa, w, 0, n if ragged else None))

    return word(emit, void, i64, i64, i64)


def chunks(kind: Kind) -> Callable:
    """A function of the columns: how many of them are summed at a time, so that all chunks are about as long."""
    most = CHUNK * kind.columns // ISA.lanes

    @jit
    def chunk(columns):
        parts = (columns + most - 1) // most
        return (columns + 32 * parts - 1) // (32 * parts) * 32

    return chunk


def rows_kernel(kind: Kind) -> Callable:
    """One token and `rows` rows, a multiple of four, where they lie.  `following`: the row that comes after these."""
    size, step, wide = kind.size, kind.columns, 64 // kind.size  # a cache line has `wide` columns
    zero, store, chunk_of = zeros(ROWS, f32xn), add_sums(1), chunks(kind)
    whole, ragged = row_products(kind, wide // kind.columns), ragged_products(kind)

    @jit
    def run(x, w, columns, y, bias, accumulate, rows, following):
        ldw, chunk = columns * size, chunk_of(columns)
        for r in range(0, rows, ROWS):
            ahead = (ROWS if r + ROWS < rows else following - r) * ldw
            for k in range(0, columns, chunk):
                n = min(chunk, columns - k)
                total, xk, wk = zero(), x + k * 4, w + (r * columns + k) * size
                for _ in range(n // wide):
                    total = whole(total, xk, wk, ldw, ahead)
                    xk += wide * 4
                    wk += wide * size
                for left in range(n % wide, 0, -step):
                    total = ragged(total, xk, wk, ldw, left)
                    xk += step * 4
                    wk += step * size
                store(total, y + r * 4, 0, bias + r * 4 if bias != 0 and k == 0 else 0, 1 if k > 0 else accumulate)

    return run


def copy_kernel(kind: Kind) -> Callable:
    """Columns of some rows into a panel: for each four rows the steps, for each step a register of each row."""
    size, step, whole, ragged = kind.size, kind.columns, copy_step(kind, False), copy_step(kind, True)

    @jit
    def copy(w, ldw, rows, columns, panel):
        steps = (columns + step - 1) // step
        for r in range((rows + ROWS - 1) // ROWS * ROWS):
            source, target = w + r * ldw, panel + (r // ROWS * steps * ROWS + r % ROWS) * REGISTER
            here = columns if r < rows else 0
            for _ in range(here // step):
                whole(source, target, 0)
                source += step * size
                target += ROWS * REGISTER
            for _ in range(steps - here // step):
                ragged(source, target, here % step)
                target += ROWS * REGISTER

    return copy


def strip_kernel(kind: Kind, tokens: int) -> Callable:
    """Tiles of `tokens` tokens from `first` on, as many as are whole, over a panel; -> the next token."""
    step, fetched, zero = kind.columns, fetched_tokens(tokens), zeros(tokens * ROWS, f32xn)
    product, store = panel_products(kind, tokens), add_sums(tokens)

    @jit
    def strip(first, count, x, ldx, panel, steps, rows, y, ldy, bias, accumulate):
        while first + tokens <= count:
            p = panel
            for r in range(0, rows, ROWS):
                total, xt = zero(), x + first * ldx
                ahead = (tokens + r // ROWS * fetched) * ldx
                for _ in range(steps):
                    total = product(total, xt, ldx, p, xt + ahead)
                    xt += step * 4
                    p += ROWS * REGISTER
                store(total, y + first * ldy + r * 4, ldy, bias + r * 4 if bias != 0 else 0, accumulate)
            first += tokens
        return first

    return strip


def panel_kernel(kind: Kind) -> Callable:
    """All tokens and at most PANEL_ROWS rows."""
    size, step, chunk_of, copy = kind.size, kind.columns, chunks(kind), copy_kernel(kind)
    many, one = strip_kernel(kind, ISA.plain_tokens), strip_kernel(kind, 1)

    @jit
    def run(tokens, x, ldx, w, columns, y, ldy, bias, accumulate, rows, panel):
        chunk = chunk_of(columns)
        for k in range(0, columns, chunk):
            n = min(chunk, columns - k)
            copy(w + k * size, columns * size, rows, n, panel)
            steps, xk = (n + step - 1) // step, x + k * 4
            first = many(0, tokens, xk, ldx, panel, steps, rows, y, ldy, bias, accumulate)
            one(first, tokens, xk, ldx, panel, steps, rows, y, ldy, bias, accumulate)
            bias, accumulate = 0, 1

    return run


def product_of(name: str) -> Callable:
    """All tokens and some rows, at most PANEL_ROWS where there are several tokens.

    following: the row, from the first one on, that the thread goes on with; panel: the thread's scratch.
    """
    kind, size = Kind(name), SIZES[name]
    in_place, in_panel = rows_kernel(kind), panel_kernel(kind)

    @jit
    def product(tokens, x, ldx, w, columns, y, ldy, bias, accumulate, rows, following, panel):
        while rows > 0:
            done = rows // ROWS * ROWS
            if tokens == 1 and done > 0:
                in_place(x, w, columns, y, bias, accumulate, done, following)
            else:
                done = rows
                in_panel(tokens, x, ldx, w, columns, y, ldy, bias, accumulate, rows, panel)
            w += done * columns * size
            y += done * 4
            bias += done * 4 if bias != 0 else 0
            rows -= done

    return product


def matmul(name: str) -> Callable:
    """The kernel of op `matmul_<name>`: panels of rows are shared out."""
    op, size, product = f"matmul_{name}", SIZES[name], product_of(name)
    X, W, Y, LDY, N, BIAS, ACCUMULATE, OWN, LDX, COLUMNS, ORDER, TOP_K = (field(op, f) for f in ROW_FIELDS)

    @jit
    def panel(row, context, thread, tokens, x, y, bias, w, r, share, following):
        columns, scratch = at(row, COLUMNS), at(context, SCRATCH) + thread * at(context, SCRATCH_STRIDE)
        product(tokens, x, at(row, LDX) * 4, w + r * columns * size, columns, y + r * 4, at(row, LDY) * 4,
                bias + r * 4 if bias != 0 else 0, at(row, ACCUMULATE), min(share, at(row, N) - r), following,
                scratch)  # fmt: skip

    @jit
    def of_expert(row, context, thread, order, x, place, tokens, part, then, part_then):
        ldy = at(row, LDY) * 4
        panel(row, context, thread, tokens, x + place * at(row, LDX) * 4, at(row, Y) + place * ldy,
              row_of(at(row, BIAS), order, place, ldy), weight_of(at(row, W), order, place), part * PANEL_ROWS,
              PANEL_ROWS, 0)  # fmt: skip

    @jit
    def parts(row):
        return (at(row, N) + PANEL_ROWS - 1) // PANEL_ROWS

    experts = each_expert(of_expert, parts)

    @jit
    def kernel(row, context, thread):
        tokens = count(row, context) * max(1, at(row, TOP_K))
        if tokens == 0:
            return
        x = at(row, X) + copy_of(row, OWN, context, thread) * tokens * at(row, LDX) * 4
        if at(row, ORDER) != 0:
            experts(row, context, thread, at(row, ORDER), x, tokens)
            return
        n = at(row, N)
        share = PANEL_ROWS
        if tokens == 1:
            share = max(1, min(n // (at(context, THREADS) * 4), SHARE_BYTES // (at(row, COLUMNS) * size)))
            share = (share + ROWS - 1) // ROWS * ROWS
        r = take(row, context, share)
        while r < n:
            following = take(row, context, share)  # so early that its weights can be fetched
            ahead = (following if following < n else r) - r
            panel(row, context, thread, tokens, x, at(row, Y), at(row, BIAS), at(row, W), r, share, ahead)
            r = following

    return kernel


KERNELS = {f"matmul_{name}": partial(matmul, name) for name in SIZES}
