"""y = W x for packed weights (q4, q8, mxfp4) and activations quantized to int8 groups of 32.

W lies in blocks of 16 rows (see `quant/formats/blocks.py`): one register of weights holds 4 columns of 16 rows, and is
multiplied with 4 values of x repeated in all lanes, so there is no horizontal sum.  A register tile is `tokens` x
`blocks` accumulators; the weights of a group are unpacked once and used by every token of the tile.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from .common import GRID, GRID_TOKENS, at, copy_of, count, quantize_row, scratch_of, take
from .elementwise import activate_groups
from .experts import each_expert, row_of, weight_of
from .layout import GRID_BLOCKS, GROUP, GROUP_BYTES, RECORD, THREADS
from .matmul_grid import grid_strip
from .ops import field
from .register_tile import finish
from .simd.words import ISA, i64, jit, unrolled, zeros

PANEL_BYTES = 256 << 10  # weights that stay in L2 while all tokens pass
ROW_FIELDS = (
    "x", "w", "y", "ldy", "bias", "accumulate", "own", "blocks", "groups", "block_bytes", "order", "top_k",
)  # fmt: skip
GATED_FIELDS = (
    "x", "w", "up_w", "gate", "up", "ldy", "bias", "up_bias", "activation", "records", "own", "blocks", "groups",
    "block_bytes", "order", "top_k",
)  # fmt: skip


def group_product(name: str, tokens: int, blocks: int) -> Callable:
    """A tile's accumulators plus the products of one group of 32 columns, as the instruction set spells them."""

    def body(isa: Any, total: list, w: Any, x: Any, block_bytes: Any, distance: Any) -> Sequence:
        if tokens in ISA.fetching:
            fetch(isa, name, isa.b.add(w, distance), block_bytes, blocks)
        return isa.group_products(name, total, w, x, block_bytes, tokens, blocks)

    return unrolled(body, tokens * blocks, i64, i64, i64, i64)


def fetch(isa: Any, name: str, w: Any, block_bytes: Any, blocks: int) -> None:
    """Start reading a group of some blocks."""
    for _ in range(blocks):
        for line in range(0, GROUP_BYTES[name], 64):
            isa.prefetch(w, line, isa.fetch_near)
        w = isa.b.add(w, block_bytes)


def tile_kernel(name: str, tokens: int, blocks: int) -> Callable:
    """One tile over all its columns.  `distance`: from its weights to those of the tile that comes next."""
    zero, product = zeros(tokens * blocks), group_product(name, tokens, blocks)
    plus, store = finish(tokens, blocks)
    group_bytes, record = GROUP_BYTES[name], tokens * RECORD

    @jit
    def tile(w, x, y, ldy, bias, accumulate, groups, block_bytes, distance):
        total = zero()
        for _ in range(groups):
            total = product(total, w, x, block_bytes, distance)
            w += group_bytes
            x += record
        if bias != 0:
            total = plus(total, bias, 0)
        if accumulate != 0:
            total = plus(total, y, ldy)
        store(total, y, ldy)

    return tile


def strip_kernel(name: str, tokens: int, blocks: int) -> Callable:
    """Tiles of `tokens` tokens from `first` on, as many as are whole, over the blocks b0..b1; -> the next token.

    `ahead`: the weights that this thread goes on with.
    """
    wide, single = tile_kernel(name, tokens, blocks), tile_kernel(name, tokens, 1)

    @jit
    def strip(first, count, b0, b1, ahead, w, x, y, ldy, bias, accumulate, groups, block_bytes, scratch):
        while first + tokens <= count:
            xt, b = x + first * groups * RECORD, b0
            while b < b1:
                wb, yb = w + b * block_bytes, y + first * ldy + b * 64
                bb = bias + b * 64 if bias != 0 else 0
                step = blocks if b + blocks <= b1 else 1
                distance = step * block_bytes if b + step < b1 else ahead - wb
                if step == blocks:
                    wide(wb, xt, yb, ldy, bb, accumulate, groups, block_bytes, distance)
                else:
                    single(wb, xt, yb, ldy, bb, accumulate, groups, block_bytes, distance)
                b += step
            first += tokens
        return first

    return strip


def strips_of(name: str) -> Callable:
    """All tokens over a panel of blocks: strips of the instruction set's tiles, widest first."""
    first, *rest = ISA.tiles
    widest = grid_strip(name) if ISA.grid else strip_kernel(name, *first)
    return chain([widest, *(strip_kernel(name, tokens, blocks) for tokens, blocks in rest)])


@jit
def panel_of(context, tokens, blocks, block_bytes):
    """Blocks in a panel: an even number, so that a panel's rows are whole groups of the result's columns."""
    if GRID and tokens >= GRID_TOKENS:
        return GRID_BLOCKS  # no more, so that what a gate takes of the result is still in L2
    panel = max(1, min(blocks // (at(context, THREADS) * 4), PANEL_BYTES // block_bytes))
    return panel + (panel & 1)


def expert_parts(blocks: int, block_bytes: int) -> tuple[Callable, Callable]:
    """Functions of a row with these fields: the blocks of a part of an expert, a quarter at most; how many parts."""

    @jit
    def size(row):
        panel = max(1, min(at(row, blocks) // 4, PANEL_BYTES // at(row, block_bytes)))
        return panel + (panel & 1)

    @jit
    def parts(row):
        return (at(row, blocks) + size(row) - 1) // size(row)

    return size, parts


def matmul(name: str) -> Callable:
    """The kernel of op `matmul_<name>`: panels of blocks are shared out, all tokens pass over a panel."""
    op, strips = f"matmul_{name}", strips_of(name)
    X, W, Y, LDY, BIAS, ACCUMULATE, OWN, BLOCKS, GROUPS, BLOCK_BYTES, ORDER, TOP_K = (field(op, f) for f in ROW_FIELDS)

    @jit
    def panel(row, tokens, x, y, bias, w, b0, b1, ahead, scratch):
        strips(0, tokens, b0, b1, ahead, w, x, y, at(row, LDY) * 4, bias, at(row, ACCUMULATE), at(row, GROUPS),
               at(row, BLOCK_BYTES), scratch)  # fmt: skip

    @jit
    def of_expert(row, context, thread, order, x, place, tokens, part, then, part_then):
        size, block_bytes, ldy = part_size(row), at(row, BLOCK_BYTES), at(row, LDY) * 4
        ahead = weight_of(at(row, W), order, then) + part_then * size * block_bytes
        panel(row, tokens, x + place * at(row, GROUPS) * RECORD, at(row, Y) + place * ldy,
              row_of(at(row, BIAS), order, place, ldy), weight_of(at(row, W), order, place), part * size,
              min(at(row, BLOCKS), part * size + size), ahead, scratch_of(context, thread))  # fmt: skip

    part_size, parts = expert_parts(BLOCKS, BLOCK_BYTES)
    experts = each_expert(of_expert, parts)

    @jit
    def kernel(row, context, thread):
        tokens, groups = count(row, context) * max(1, at(row, TOP_K)), at(row, GROUPS)
        if tokens == 0:
            return
        x = at(row, X) + copy_of(row, OWN, context, thread) * tokens * groups * RECORD
        if at(row, ORDER) != 0:
            experts(row, context, thread, at(row, ORDER), x, tokens)
            return
        w, blocks, block_bytes = at(row, W), at(row, BLOCKS), at(row, BLOCK_BYTES)
        size, scratch = panel_of(context, tokens, blocks, block_bytes), scratch_of(context, thread)
        b0 = take(row, context, size)
        while b0 < blocks:
            following = take(row, context, size)  # so early that its weights can be fetched
            ahead = w + (following if following < blocks else b0) * block_bytes
            panel(row, tokens, x, at(row, Y), at(row, BIAS), w, b0, min(blocks, b0 + size), ahead, scratch)
            b0 = following

    return kernel


def gated_matmul(name: str) -> Callable:
    """The kernel of op `gated_<name>`: a thread has a panel of both products, and so of the gate's output.

    Without `up_w` there is one product, and the activation of that.
    """
    op, strips = f"gated_{name}", strips_of(name)
    (X, W, UP_W, GATE, UP, LDY, BIAS, UP_BIAS, ACTIVATION, RECORDS, OWN, BLOCKS, GROUPS, BLOCK_BYTES, ORDER,
     TOP_K) = (field(op, f) for f in GATED_FIELDS)  # fmt: skip

    @jit
    def panel(row, tokens, x, place, bias, up_bias, w, up_w, b0, b1, ahead, scratch):
        groups, block_bytes, ldy, records = at(row, GROUPS), at(row, BLOCK_BYTES), at(row, LDY) * 4, at(row, RECORDS)
        gate, up, width = at(row, GATE) + place * ldy, at(row, UP) + place * ldy, at(row, LDY) // GROUP
        then = up_w + b0 * block_bytes if up_w != 0 else ahead
        strips(0, tokens, b0, b1, then, w, x, gate, ldy, bias, 0, groups, block_bytes, scratch)
        if up_w != 0:
            strips(0, tokens, b0, b1, ahead, up_w, x, up, ldy, up_bias, 0, groups, block_bytes, scratch)
        g0, g1 = b0 // 2, (b1 + 1) // 2
        for t in range(tokens):
            gate_t, up_t = gate + t * ldy, up + t * ldy if up_w != 0 else 0
            activate_groups(at(row, ACTIVATION), gate_t, up_t, gate_t, g0, g1)
            if records != 0:
                quantize_row(gate_t, records + place * width * RECORD, width, g0, g1, t, tokens)

    @jit
    def of_expert(row, context, thread, order, x, place, tokens, part, then, part_then):
        size, block_bytes, ldy = part_size(row), at(row, BLOCK_BYTES), at(row, LDY) * 4
        ahead = weight_of(at(row, W), order, then) + part_then * size * block_bytes
        panel(row, tokens, x + place * at(row, GROUPS) * RECORD, place, row_of(at(row, BIAS), order, place, ldy),
              row_of(at(row, UP_BIAS), order, place, ldy), weight_of(at(row, W), order, place),
              weight_of(at(row, UP_W), order, place), part * size, min(at(row, BLOCKS), part * size + size),
              ahead, scratch_of(context, thread))  # fmt: skip

    part_size, parts = expert_parts(BLOCKS, BLOCK_BYTES)
    experts = each_expert(of_expert, parts)

    @jit
    def kernel(row, context, thread):
        tokens, groups = count(row, context) * max(1, at(row, TOP_K)), at(row, GROUPS)
        if tokens == 0:
            return
        x = at(row, X) + copy_of(row, OWN, context, thread) * tokens * groups * RECORD
        if at(row, ORDER) != 0:
            experts(row, context, thread, at(row, ORDER), x, tokens)
            return
        w, up_w, blocks, block_bytes = at(row, W), at(row, UP_W), at(row, BLOCKS), at(row, BLOCK_BYTES)
        size, scratch = panel_of(context, tokens, blocks, block_bytes), scratch_of(context, thread)
        b0 = take(row, context, size)
        while b0 < blocks:
            following = take(row, context, size)
            ahead = w + (following if following < blocks else b0) * block_bytes
            panel(row, tokens, x, 0, at(row, BIAS), at(row, UP_BIAS), w, up_w, b0, min(blocks, b0 + size), ahead,
                  scratch)  # fmt: skip
            b0 = following

    return kernel


def chain(strips: Sequence[Callable]) -> Callable:
    """Run the strips one after the other, each from where the one before it stopped."""
    strip = strips[0]
    if len(strips) == 1:

        @jit
        def last(first, tokens, b0, b1, ahead, w, x, y, ldy, bias, accumulate, groups, block_bytes, scratch):
            strip(first, tokens, b0, b1, ahead, w, x, y, ldy, bias, accumulate, groups, block_bytes, scratch)

        return last
    rest = chain(strips[1:])

    @jit
    def run(first, tokens, b0, b1, ahead, w, x, y, ldy, bias, accumulate, groups, block_bytes, scratch):
        first = strip(first, tokens, b0, b1, ahead, w, x, y, ldy, bias, accumulate, groups, block_bytes, scratch)
        rest(first, tokens, b0, b1, ahead, w, x, y, ldy, bias, accumulate, groups, block_bytes, scratch)

    return run


KERNELS = {
    **{f"matmul_{name}": partial(matmul, name) for name in GROUP_BYTES},
    **{f"gated_{name}": partial(gated_matmul, name) for name in GROUP_BYTES},
}
