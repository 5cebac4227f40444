"""y = W x for packed weights and sixteen tokens at a time, where the machine multiplies matrices (`ISA.grid`).

A few groups of a few blocks are unpacked to signed bytes once, and all tokens pass over them.  The sums of sixteen
tokens and a block are registers while the groups pass; between one lot of groups and the next they wait in memory.
They are the numbers that `matmul_packed.py` computes, bit by bit: whole sums of a group, then floats in its order.
"""

from collections.abc import Callable, Sequence
from typing import Any

from .common import GRID_TOKENS
from .layout import GRID_BLOCKS, GRID_GROUPS, GRID_SPAN, GROUP, GROUP_BYTES, RECORD, SCALES
from .register_tile import finish
from .simd.portable import VI, constant
from .simd.words import i64, jit, unrolled, void, word, zeros

TOKENS = 16
CODES = {"q4": 8, "q8": 128, "mxfp4": 12}  # what is added to codes to make them unsigned
SCALE_BYTES = 64  # an unpacked group: 16 scales in f32, then signed codes as q8 has them
UNPACKED = SCALE_BYTES + 16 * GROUP
SUMS = TOKENS * 64  # bytes of a tile's sums

open_grid, close_grid = word(lambda isa: isa.open_grid(GROUP), void), word(lambda isa: isa.close_grid(), void)


def unpack_kernel(name: str) -> Callable:
    """n groups of a block as signed bytes and floats; as many are fetched that are unpacked after these."""

    def emit(isa: Any, w: Any, to: Any, ahead: Any) -> None:
        for line in range(0, size, 64):
            isa.prefetch(ahead, line, 2)
        isa.store(to, 0, isa.load_scales(name, w))
        offset = constant(0x01010101 * CODES[name] - (1 << 32) * (CODES[name] > 127), VI)
        for c, codes in enumerate(isa.unpack(name, w, SCALES)):
            isa.store(to, SCALE_BYTES + 64 * c, isa.subtract_bytes(codes, offset))

    size = GROUP_BYTES[name]
    group = word(emit, void, i64, i64, i64)

    @jit
    def unpack(w, n, to, ahead):
        for _ in range(n):
            group(w, to, ahead)
            w += size
            to += UNPACKED
            ahead += size

    return unpack


four = word(lambda isa, x, w, i, n, to: isa.grid_codes(x, TOKENS * RECORD, isa.offset(w, SCALE_BYTES), UNPACKED, i, n,
                                                       to), void, i64, i64, i64, i64, i64)  # fmt: skip


def scaled(isa: Any, total: list, x: Any, w: Any, sums: Any) -> Sequence:
    """The tile plus a group's whole sums times its scales."""
    scale = isa.load_f32(w)
    for t in range(TOKENS):
        product, x_scale = isa.to_f32(isa.load_i32(sums, 64 * t)), isa.broadcast_f32(x, TOKENS * GROUP + 4 * t)
        total[t] = isa.fma(product, isa.mul(scale, x_scale), total[t])
    return total


zero, add_scaled = zeros(TOKENS), unrolled(scaled, TOKENS, i64, i64, i64)
plus, save = finish(TOKENS, 1)


@jit
def tile(x, w, groups, codes, sums, more, y, ldy, bias, accumulate):
    """Some groups of a block, whose whole sums are first left at `codes`: the machine does not overlap the two.

    more: 1 where `sums` are there from the groups before, and 2 where others follow.
    """
    for i in range(0, groups + 2, 4):
        four(x + i * (TOKENS * RECORD), w + i * UNPACKED, i, groups, codes + i * SUMS)
    total = zero()
    if more & 1 != 0:
        total = plus(total, sums, 64)
    for _ in range(groups):
        total = add_scaled(total, x, w, codes)
        x += TOKENS * RECORD
        w += UNPACKED
        codes += SUMS
    if more & 2 != 0:
        save(total, sums, 64)
        return
    if bias != 0:
        total = plus(total, bias, 0)
    if accumulate != 0:
        total = plus(total, y, ldy)
    save(total, y, ldy)


def grid_strip(name: str) -> Callable:
    """A strip as `matmul_packed.strip_kernel` makes them, for tiles of 16 tokens; `scratch`: GRID_BYTES."""
    unpack, group_bytes = unpack_kernel(name), GROUP_BYTES[name]

    @jit
    def pass_over(x, w, y, ldy, bias, accumulate, g, n, groups, blocks, count, scratch):
        """Tokens `count` and blocks, n groups from g on."""
        sums = scratch + GRID_BLOCKS * GRID_GROUPS * UNPACKED
        codes, more = sums + GRID_SPAN * GRID_BLOCKS * 64, (1 if g > 0 else 0) + (2 if g + n < groups else 0)
        for t in range(0, count, TOKENS):
            for b in range(blocks):
                tile(x + (t * groups + g * TOKENS) * RECORD, w + b * n * UNPACKED, n, codes,
                     sums + (t * GRID_BLOCKS + b * TOKENS) * 64, more, y + t * ldy + b * 64, ldy,
                     bias + b * 64 if bias != 0 else 0, accumulate)  # fmt: skip

    @jit
    def strip(first, count, b0, b1, ahead, w, x, y, ldy, bias, accumulate, groups, block_bytes, scratch):
        end = first + (count - first) // TOKENS * TOKENS
        if count - first >= GRID_TOKENS:
            parts = (groups + GRID_GROUPS - 1) // GRID_GROUPS
            most = (groups + parts - 1) // parts
            open_grid()
            while first < end:
                span = min(GRID_SPAN, end - first)
                xs, ys = x + first * groups * RECORD, y + first * ldy
                for b in range(b0, b1, GRID_BLOCKS):
                    blocks = min(GRID_BLOCKS, b1 - b)
                    for g in range(0, groups, most):
                        n = min(most, groups - g)
                        for i in range(blocks):
                            at, then = w + (b + i) * block_bytes + g * group_bytes, ahead + i * block_bytes
                            if g + n < groups:
                                then = at + n * group_bytes
                            elif b + blocks < b1:
                                then = w + (b + blocks + i) * block_bytes
                            unpack(at, n, scratch + i * n * UNPACKED, then)
                        pass_over(xs, scratch, ys + b * 64, ldy, bias + b * 64 if bias != 0 else 0, accumulate, g,
                                  n, groups, blocks, span, scratch)  # fmt: skip
                first += span
            close_grid()
        return first

    return strip
