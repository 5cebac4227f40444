"""y = W x for weights as they lie in a checkpoint: row-major f32, f16 or bf16, and f32 activations.

Four rows share the registers of x, and some tokens those of the rows.  The lanes of an accumulator are columns: they
are summed after each chunk of columns, and the sums are added to y.  So a token's sums have one order, whatever else is
in the batch.  Many tokens pass over transposed panels of rows, with the same sums: see `matmul_panel.py`.
Where the machine multiplies pairs of bf16, a register holds twice as many columns, and nothing is converted but x.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from .common import at, copy_of, count, scratch_of, take
from .experts import each_expert, row_of, weight_of
from .layout import THREADS
from .matmul_pairs import TILE as PAIR_ROWS
from .matmul_pairs import pair_kernel
from .matmul_panel import ROWS as TILE_ROWS
from .matmul_panel import panel_kernel
from .ops import field
from .plain_kinds import REGISTER, SIZES, Kind, chunks, put_sums
from .simd.words import ISA, f32xn, i64, jit, unrolled, zeros

ROW_FIELDS = (
    "x", "w", "y", "ldy", "rows", "bias", "accumulate", "own", "ldx", "columns", "order", "top_k",
)  # fmt: skip
ROWS = 4  # in a register tile
WIDTHS = tuple(dict.fromkeys((ISA.plain_tokens, ISA.plain_tokens // 2, 1)))  # tokens in one
SHARE_BYTES = 256 << 10  # of weights that a thread takes at once, when they are read in place
SUMS = 64  # chunks of a single token's columns whose sums are kept at once, in four registers each of at most 64 bytes
SUMS_BYTES = SUMS * ROWS * 64  # of a thread's scratch; a single token's packed x lies behind them
STREAMS = 1 not in ISA.fetching  # a single token's rows are best read one after the other
X_BYTES = 24 << 10  # of all tokens' columns that stay in L1 while the rows pass


def row_products(kind: Kind, steps: int, tokens: int) -> Callable:
    """The accumulators of some tokens and four rows, plus `steps` registers of each row at `w`.

    The four rows that follow are fetched: where one row ends and another begins, the hardware does not foresee it.
    """

    def body(isa: Any, total: list, x: Any, ldx: Any, w: Any, ldw: Any, ahead: Any) -> Sequence:
        rows, tokens_at = following(isa, w, ldw, ROWS), following(isa, x, ldx, tokens)
        for r in rows:
            isa.prefetch(isa.b.add(r, ahead))
        for step in range(steps):
            values = [kind.x(isa, at, step * kind.columns * 4) for at in tokens_at]
            for r, address in enumerate(rows):
                weights = kind.weights(isa, address, step * kind.columns * kind.size)
                for t in range(tokens):
                    total[t * ROWS + r] = kind.multiply(isa, values[t], weights, total[t * ROWS + r])
        return total

    return unrolled(body, tokens * ROWS, i64, i64, i64, i64, i64, register=f32xn)


def ragged_products(kind: Kind, tokens: int) -> Callable:
    """The same for one register of each row, of whose columns only the first n are there."""

    def body(isa: Any, total: list, x: Any, ldx: Any, w: Any, ldw: Any, n: Any) -> Sequence:
        values = [kind.x(isa, at) for at in following(isa, x, ldx, tokens)]
        for r, address in enumerate(following(isa, w, ldw, ROWS)):
            weights = kind.weights(isa, address, 0, n)
            for t in range(tokens):
                total[t * ROWS + r] = kind.multiply(isa, values[t], weights, total[t * ROWS + r])
        return total

    return unrolled(body, tokens * ROWS, i64, i64, i64, i64, i64, register=f32xn)


def following(isa: Any, address: Any, stride: Any, n: int) -> list:
    """n addresses, `stride` bytes from each other."""
    found = [address]
    while len(found) < n:
        found.append(isa.b.add(found[-1], stride))
    return found


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


def rows_kernel(kind: Kind, tokens: int) -> Callable:
    """So many tokens and four rows where they lie, n columns of them, a chunk at a time."""
    size, step, wide = kind.size, kind.columns, 64 // kind.size  # a cache line has `wide` columns
    zero, store = zeros(tokens * ROWS, f32xn), add_sums(tokens)
    whole, ragged = row_products(kind, wide // kind.columns, tokens), ragged_products(kind, tokens)

    @jit
    def run(x, ldx, w, ldw, columns, chunk, y, ldy, bias, accumulate, ahead):
        for k in range(0, columns, chunk):
            n = min(chunk, columns - k)
            total, xk, wk = zero(), x + k * 4, w + k * size
            for _ in range(n // wide):
                total = whole(total, xk, ldx, wk, ldw, ahead)
                xk += wide * 4
                wk += wide * size
            for left in range(n % wide, 0, -step):
                total = ragged(total, xk, ldx, wk, ldw, left)
                xk += step * 4
                wk += step * size
            store(total, y, ldy, bias, accumulate)
            bias, accumulate = 0, 1

    return run


def streaming_kernel(kind: Kind) -> Callable:
    """The same for a single token, whose x is `packed`, one row after the other: memory is read in one stream.

    The sums of each row's chunks, before those over the lanes, lie in `sums` until all four rows have them.
    """
    size, step, wide = kind.size, kind.columns, 64 // kind.size
    x_size = kind.size if kind.pairs else 4

    def packed(isa: Any, x: Any, i: int) -> Any:
        return (isa.load_pairs if kind.pairs else partial(kind.x, isa))(x, i * step * x_size)

    def steps(isa: Any, total: list, x: Any, w: Any) -> Sequence:
        for i in range(wide // step):
            total[0] = kind.multiply(isa, packed(isa, x, i), kind.weights(isa, w, i * step * size), total[0])
        return total

    def left(isa: Any, total: list, x: Any, w: Any, n: Any) -> Sequence:
        return [kind.multiply(isa, packed(isa, x, 0), kind.weights(isa, w, 0, n), total[0])]

    def keep(isa: Any, total: list, to: Any) -> Sequence:
        isa.store(to, 0, total[0])
        return total

    def kept(isa: Any, total: list, at: Any) -> Sequence:
        return [isa.load(at, r * REGISTER, total[r].type) for r in range(ROWS)]

    zero, empty, store = zeros(1, f32xn), zeros(ROWS, f32xn), add_sums(1)
    whole, ragged = (unrolled(body, 1, *[i64] * n, register=f32xn) for body, n in ((steps, 2), (left, 3)))
    put, get = (unrolled(body, n, i64, register=f32xn) for body, n in ((keep, 1), (kept, ROWS)))

    @jit
    def run(x, w, ldw, columns, chunk, y, bias, accumulate, sums):
        for r in range(ROWS):
            to = sums + r * REGISTER
            for k in range(0, columns, chunk):
                n = min(chunk, columns - k)
                total, xk, wk = zero(), x + k * x_size, w + r * ldw + k * size
                for _ in range(n // wide):
                    total = whole(total, xk, wk)
                    xk += wide * x_size
                    wk += wide * size
                for some in range(n % wide, 0, -step):
                    total = ragged(total, xk, wk, some)
                    xk += step * x_size
                    wk += step * size
                put(total, to)
                to += ROWS * REGISTER
        for _ in range(0, columns, chunk):
            store(get(empty(), sums), y, 0, bias, accumulate)
            sums += ROWS * REGISTER
            bias, accumulate = 0, 1

    return run


def pack_kernel(kind: Kind) -> Callable:
    """A single token's x as `streaming_kernel` reads it: pairs are made once, in `packed`, and not for each row."""

    def one(isa: Any, total: list, x: Any, to: Any) -> Sequence:
        isa.store(to, 0, kind.x(isa, x))
        return total

    zero, pair, step = zeros(1, f32xn), unrolled(one, 1, i64, i64, register=f32xn), kind.columns

    @jit
    def pack(x, columns, packed):
        for k in range(0, columns, step):
            pair(zero(), x + k * 4, packed + k * 2)
        return packed

    @jit
    def same(x, columns, packed):
        return x

    return pack if kind.pairs else same


def strips(kind: Kind, widths: Sequence[int] = WIDTHS) -> Callable:
    """All tokens and four rows where they lie, the widest tiles first."""
    tokens, here = widths[0], rows_kernel(kind, widths[0])
    rest = strips(kind, widths[1:]) if len(widths) > 1 else None

    @jit
    def tiles(first, count, x, ldx, w, ldw, columns, chunk, y, ldy, bias, accumulate, ahead):
        while first + tokens <= count:
            here(x + first * ldx, ldx, w, ldw, columns, chunk, y + first * ldy, ldy, bias, accumulate, ahead)
            first += tokens
        return first

    if rest is None:
        return tiles

    @jit
    def run(first, count, x, ldx, w, ldw, columns, chunk, y, ldy, bias, accumulate, ahead):
        first = tiles(first, count, x, ldx, w, ldw, columns, chunk, y, ldy, bias, accumulate, ahead)
        return rest(first, count, x, ldx, w, ldw, columns, chunk, y, ldy, bias, accumulate, ahead)

    return run


def in_place_kernel(kind: Kind, widths: Sequence[int] = WIDTHS) -> Callable:
    """All tokens, in tiles of these widths, and some rows where they lie.  `following`: the row that comes after these;
    `sums`: the thread's scratch."""
    size, chunk_of, four = kind.size, chunks(kind), strips(kind, widths)
    stream, pack = streaming_kernel(kind), pack_kernel(kind)

    @jit
    def fours(tokens, x, ldx, w, columns, y, ldy, bias, accumulate, rows, following):
        """Rows four by four; of the columns so many at a time as stay in L1 for all tokens."""
        ldw, chunk = columns * size, chunk_of(columns)
        span = columns if tokens == 1 else max(1, X_BYTES // (tokens * chunk * 4)) * chunk
        for k in range(0, columns, span):
            n = min(span, columns - k)
            for r in range(0, rows, ROWS):
                ahead = (ROWS if r + ROWS < rows else following - r) * ldw
                four(0, tokens, x + k * 4, ldx, w + r * ldw + k * size, ldw, n, chunk, y + r * 4, ldy,
                     bias + r * 4 if bias != 0 else 0, accumulate, ahead)  # fmt: skip
            bias, accumulate = 0, 1

    @jit
    def fours_of_one(x, w, columns, y, bias, accumulate, rows, sums):
        """Rows four by four for a single token."""
        ldw, chunk = columns * size, chunk_of(columns)
        for k in range(0, columns, SUMS * chunk):
            n = min(SUMS * chunk, columns - k)
            packed = pack(x + k * 4, n, sums + SUMS_BYTES)
            for r in range(0, rows, ROWS):
                stream(packed, w + r * ldw + k * size, ldw, n, chunk, y + r * 4, bias + r * 4 if bias != 0 else 0,
                       accumulate, sums)  # fmt: skip
            bias, accumulate = 0, 1

    @jit
    def ones(tokens, x, ldx, w, columns, y, ldy, bias, accumulate, rows, sums):
        """Rows one by one, each as if it were four."""
        chunk = chunk_of(columns)
        for k in range(0, columns, chunk):
            n = min(chunk, columns - k)
            for r in range(rows):
                four(0, tokens, x + k * 4, ldx, w + (r * columns + k) * size, 0, n, chunk, sums, ROWS * 4, 0, 0, 0)
                put_sums(sums, ROWS * 4, tokens, 1, y + r * 4, ldy, bias + r * 4 if bias != 0 else 0, accumulate)
            bias, accumulate = 0, 1

    @jit
    def run(tokens, x, ldx, w, columns, y, ldy, bias, accumulate, rows, following, sums):
        whole = rows // ROWS * ROWS
        if tokens == 1 and STREAMS:
            fours_of_one(x, w, columns, y, bias, accumulate, whole, sums)
        else:
            fours(tokens, x, ldx, w, columns, y, ldy, bias, accumulate, whole, following)
        if whole < rows:
            ones(tokens, x, ldx, w + whole * columns * size, columns, y + whole * 4, ldy,
                 bias + whole * 4 if bias != 0 else 0, accumulate, rows - whole, sums)  # fmt: skip

    return run


def product_of(name: str) -> Callable:
    """All tokens and some rows, at most the kind's `share` of them where there are `many` tokens.

    following: the row, from the first one on, that the thread goes on with; scratch: the thread's.
    """
    kind = Kind(name)
    if kind.grid:
        return pair_kernel(kind)
    many, in_place, in_panel = kind.many, in_place_kernel(kind), panel_kernel(kind)

    @jit
    def product(tokens, x, ldx, w, columns, y, ldy, bias, accumulate, rows, following, scratch):
        done = 0
        if tokens >= many:
            done = in_panel(tokens, x, ldx, w, columns, y, ldy, bias, accumulate, rows, scratch)
        if done < tokens:
            in_place(tokens - done, x + done * ldx, ldx, w, columns, y + done * ldy, ldy, bias, accumulate, rows,
                     following, scratch)  # fmt: skip

    return product


def matmul(name: str) -> Callable:
    """The kernel of op `matmul_<name>`: panels of rows are shared out."""
    op, size, product, kind = f"matmul_{name}", SIZES[name], product_of(name), Kind(name)
    many, most, lot = kind.many, kind.share, 2 * PAIR_ROWS if kind.grid else TILE_ROWS
    X, W, Y, LDY, N, BIAS, ACCUMULATE, OWN, LDX, COLUMNS, ORDER, TOP_K = (field(op, f) for f in ROW_FIELDS)

    @jit
    def panel(row, context, thread, tokens, x, y, bias, w, r, share, following):
        columns, scratch = at(row, COLUMNS), scratch_of(context, thread)
        product(tokens, x, at(row, LDX) * 4, w + r * columns * size, columns, y + r * 4, at(row, LDY) * 4,
                bias + r * 4 if bias != 0 else 0, at(row, ACCUMULATE), min(share, at(row, N) - r), following,
                scratch)  # fmt: skip

    @jit
    def of_expert(row, context, thread, order, x, place, tokens, part, then, part_then):
        ldy = at(row, LDY) * 4
        panel(row, context, thread, tokens, x + place * at(row, LDX) * 4, at(row, Y) + place * ldy,
              row_of(at(row, BIAS), order, place, ldy), weight_of(at(row, W), order, place), part * most,
              most, 0)  # fmt: skip

    @jit
    def parts(row):
        return (at(row, N) + most - 1) // most

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
        share = n // (at(context, THREADS) * 3)
        if tokens < many:
            share = max(1, min(share, SHARE_BYTES // (at(row, COLUMNS) * size)))
            share = (share + ROWS - 1) // ROWS * ROWS
        else:
            share = max(lot, min(share, most) // lot * lot)
        r = take(row, context, share)
        while r < n:
            following = take(row, context, share)  # so early that its weights can be fetched
            ahead = (following if following < n else r) - r
            panel(row, context, thread, tokens, x, at(row, Y), at(row, BIAS), at(row, W), r, share, ahead)
            r = following

    return kernel


KERNELS = {f"matmul_{name}": partial(matmul, name) for name in SIZES}
