"""y = W x for many tokens and row-major weights: a panel of rows is transposed once, and all tokens pass over it.

Lanes of a register are rows here, so that there is no sum over lanes: a number of x is repeated in all of them.  The
sums still have the order that one token's have (see `matmul_plain.py`).  There, lane i of an accumulator holds the sum
of every lanes-th column from i on, and lanes are added in pairs, then pairs of pairs; here such a sum is a tile by
itself, and a tile is added to the one before it as soon as both are whole, by way of a stack.
"""

from collections.abc import Callable, Sequence
from typing import Any

from .layout import PANEL_ROWS, PANEL_TOKENS, X_STRIDE
from .plain_kinds import REGISTER, Kind, chunks, put_sums
from .simd.portable import F32
from .simd.words import ISA, f32xn, i64, jit, unrolled, void, word, zeros

LANES = ISA.lanes
TOKENS, REGISTERS = ISA.panel_tile
ROWS = REGISTERS * LANES  # of a tile
PLANE = ROWS * 4  # bytes of a step of a panel
TILE = TOKENS * PLANE  # bytes of a tile of sums
PAIRS = (8, 2, 1, 4) if LANES == 16 else (2, 1, 4)[: LANES.bit_length() - 1]  # `Portable.sum_four`
LANE = tuple(sum(bit for n, bit in enumerate(PAIRS) if i >> n & 1) for i in range(LANES))  # in the order of the sums
LEVELS = len(PAIRS)
PANEL_AHEAD = 1024  # bytes
assert TOKENS <= PANEL_TOKENS and PANEL_ROWS % ROWS == 0


def transpose_step(kind: Kind, ragged: bool) -> Callable:
    """A word that copies one register of `lanes` rows into a panel, a plane for each lane; where `ragged`, its first n
    columns, and zeros.  Rows past the last one repeat it."""

    def emit(isa: Any, w: Any, ldw: Any, rows: Any, panel: Any, plane: Any, n: Any) -> None:
        registers = []
        for r in range(LANES):
            registers.append(kind.weights(isa, w, 0, n if ragged else None))
            more = isa.b.icmp_signed(">", rows, rows.type(r + 1))
            w = isa.b.add(w, isa.b.select(more, ldw, ldw.type(0)))
        registers = isa.transpose(registers)
        for lane in LANE:
            isa.store(panel, 0, registers[lane])
            panel = isa.b.add(panel, plane)

    return word(emit, void, i64, i64, i64, i64, i64, i64)


def copy_kernel(kind: Kind) -> Callable:
    """Columns of some rows into a panel: [tile of rows][lane][step][rows of the tile]."""
    step, whole, ragged = kind.columns, transpose_step(kind, False), transpose_step(kind, True)

    @jit
    def copy(w, ldw, rows, columns, panel):
        steps = (columns + step - 1) // step
        for r in range(0, (rows + ROWS - 1) // ROWS * ROWS, LANES):
            here = min(r, rows - 1)
            source, target = w + here * ldw, panel + r // ROWS * (steps * LANES * PLANE) + r % ROWS * 4
            for _ in range(columns // step):
                whole(source, ldw, rows - here, target, steps * PLANE, 0)
                source += step * kind_size
                target += PLANE
            if columns % step != 0:
                ragged(source, ldw, rows - here, target, steps * PLANE, columns % step)

    kind_size = kind.size
    return copy


def copy_x(kind: Kind) -> Callable:
    """The tile's tokens side by side, as floats or as pairs of bf16, the lanes in the order of the sums."""

    def emit(isa: Any, x: Any, target: Any) -> None:
        value = kind.x(isa, x)
        isa.store(target, 0, isa.pick(value, value, LANE))

    one, step = word(emit, void, i64, i64), kind.columns * 4

    @jit
    def copy(x, ldx, steps, target):
        for t in range(TOKENS):
            for s in range(steps):
                one(x + t * ldx + s * step, target + t * X_STRIDE + s * REGISTER)

    return copy


def products(kind: Kind) -> Callable:
    """The tile plus one column of all tokens (or a pair of columns) times one step of a panel.

    What lies at `ahead` is fetched to L2, a register's worth of the next tile's x, and the panel to L1.
    """

    def body(isa: Any, total: list, x: Any, panel: Any, ahead: Any) -> Sequence:
        for line in range(0, kind.columns * 4, 64):
            isa.prefetch(ahead, line, 2)
        for line in range(0, PLANE, 64):
            isa.prefetch(panel, PANEL_AHEAD + line)
        weights = [isa.load(panel, r * REGISTER, f32xn.ir) for r in range(REGISTERS)]
        for t in range(TOKENS):
            value = isa.splat(isa.load(x, t * X_STRIDE, F32), f32xn.ir)
            for r in range(REGISTERS):
                total[t * REGISTERS + r] = kind.multiply(isa, value, weights[r], total[t * REGISTERS + r])
        return total

    return unrolled(body, TOKENS * REGISTERS, i64, i64, i64, register=f32xn)


def each(action: Callable) -> Callable:
    """A word that does something with every register of a tile and what lies at an address, tokens `stride` apart."""

    def body(isa: Any, total: list, address: Any, stride: Any) -> Sequence:
        for t in range(TOKENS):
            for r in range(REGISTERS):
                i = t * REGISTERS + r
                total[i] = action(isa, total[i], address, r * REGISTER)
            address = isa.b.add(address, stride)
        return total

    return unrolled(body, TOKENS * REGISTERS, i64, i64, register=f32xn)


def _plus(isa: Any, value: Any, address: Any, offset: int) -> Any:
    return isa.add(value, isa.load(address, offset, f32xn.ir))


def _save(isa: Any, value: Any, address: Any, offset: int) -> Any:
    isa.store(address, offset, value)
    return value


plus, save = each(_plus), each(_save)


def tile_kernel(kind: Kind) -> Callable:
    """A tile over all columns of a panel, to y.  following: x of the next tile; stack: room for LEVELS + 1 tiles."""
    zero, product, step = zeros(TOKENS * REGISTERS, f32xn), products(kind), kind.columns * 4

    @jit
    def tile(x, panel, steps, rows, y, ldy, bias, accumulate, following, ldx, stack):
        total, level = zero(), stack
        for i in range(LANES):
            total, xs, ahead = zero(), x + 4 * i, following + min(i, TOKENS - 1) * ldx
            for _ in range(steps):
                total = product(total, xs, panel, ahead)
                xs += REGISTER
                ahead += step
                panel += PLANE
            level, whole = stack, i
            while whole & 1 != 0:
                total = plus(total, level, PLANE)
                level += TILE
                whole >>= 1
            if i + 1 < LANES:
                save(total, level, PLANE)
        if rows < ROWS:
            save(total, stack, PLANE)
            put_sums(stack, PLANE, TOKENS, rows, y, ldy, bias, accumulate)
            return
        if bias != 0:
            total = plus(total, bias, 0)
        if accumulate != 0:
            total = plus(total, y, ldy)
        save(total, y, ldy)

    return tile


def panel_kernel(kind: Kind) -> Callable:
    """As many tokens as are whole tiles, and at most PANEL_ROWS rows; -> how many tokens that were."""
    size, step, chunk_of, copy, copy_tile, tile = (
        kind.size, kind.columns, chunks(kind), copy_kernel(kind), copy_x(kind), tile_kernel(kind),
    )  # fmt: skip

    @jit
    def run(tokens, x, ldx, w, columns, y, ldy, bias, accumulate, rows, scratch):
        chunk, xs = chunk_of(columns), scratch + (LEVELS + 1) * TILE
        panel = xs + TOKENS * X_STRIDE
        for k in range(0, columns, chunk):
            n = min(chunk, columns - k)
            copy(w + k * size, columns * size, rows, n, panel)
            steps = (n + step - 1) // step
            for t in range(0, tokens - TOKENS + 1, TOKENS):
                here, following = x + t * ldx + k * 4, x + (t + TOKENS) * ldx + k * 4
                copy_tile(here, ldx, steps, xs)
                for r in range(0, rows, ROWS):
                    tile(xs, panel + r * (steps * LANES * 4), steps, rows - r, y + t * ldy + r * 4, ldy,
                         bias + r * 4 if bias != 0 else 0, accumulate, following, ldx, scratch)  # fmt: skip
            bias, accumulate = 0, 1
        return tokens // TOKENS * TOKENS

    return run
