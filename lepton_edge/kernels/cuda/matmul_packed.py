"""y = W x for packed weights (q4, q8) and activations in int8 groups of 32, on the tensor cores.

W lies in blocks of 16 rows (`quant/formats/blocks.py`), and `mma.m16n8k32` multiplies 16 rows x 32 columns with 8
tokens: just a group of a block.  Lane 4 g + t holds the rows 2 g and 2 g + 1 and the columns 8 t … 8 t + 7, which are 8
neighbouring bytes of q4 (16 of q8), so a warp reads a group in one piece; which rows are called 2 g, and in which order
columns are summed, is the same for both factors and does not matter to the tensor core.

Few tokens: a block's columns are split over the warps of a thread block, whose sums meet in shared memory.  Many: each
warp has rows and tokens of its own.  A launch runs `more` rows of the table at once, which have x in common; of
`gated_...`, both weights.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba import config, cuda

from ..layout import BLOCK, GROUP, GROUP_BYTES, SCALES
from ..ops import ROW
from .common import F0, at, count, more, room, scales_at, warp_here, warps_there
from .elementwise import fields
from .embed import packed
from .words import LANES, begin, get_f32, get_i8, jit, put_f32

if not config.ENABLE_CUDASIM:
    from .ptx import get_shared_f32, shared, unrolled, zeros

__all__ = ["KERNELS"]

SPLIT = 8  # warps that share the columns of a block
SHARED = {1: 4, 2: 4, 4: 2, 8: 1}  # tiles of 8 tokens -> groups whose reads are under way together
WIDE_BLOCKS, WIDE_TILES, WIDE_WARPS = 2, 8, 4  # of a warp: blocks of rows, tiles of 8 tokens; of a thread block: warps
FORMATS = ("q8", "q4")


def operand_of(op: str) -> Callable[..., Any]:
    """A word (row, parts, b, step) -> (row, W, y, bias, accumulate, b): the b-th `step` blocks of all parts."""
    f = fields(op)
    W, BIAS, BLOCKS = f["w"], f["bias"], f["blocks"]
    if op.startswith("matmul"):
        Y, ACCUMULATE = f["y"], f["accumulate"]

        @jit
        def operand(row, parts, b, step):
            for _ in range(parts - 1):
                units = (at(row, BLOCKS) + step - 1) // step
                if b < units:
                    break
                b -= units
                row += 8 * ROW
            return row, at(row, W), at(row, Y), at(row, BIAS), at(row, ACCUMULATE), b * step

        return operand
    GATE, UP, UP_W, UP_BIAS = f["gate"], f["up"], f["up_w"], f["up_bias"]

    @jit
    def both(row, parts, b, step):
        units = (at(row, BLOCKS) + step - 1) // step
        if b < units:
            return row, at(row, W), at(row, GATE), at(row, BIAS), np.int64(0), b * step
        return row, at(row, UP_W), at(row, UP), at(row, UP_BIAS), np.int64(0), (b - units) * step

    return both


def groups_word(name: str, blocks: int, tiles: int, groups: int) -> Any:
    """A word that adds the products of some groups to the sums of a warp, four floats for each block and tile.

    codes, scales: of the lane, in the first block and group; x: the codes of the lane's token of the first tile;
    x_scales: of tokens 2 t and 2 t + 1; the others say how far the next block, tile and group lie.
    """
    size = GROUP_BYTES[name]

    def fragment(e: Any, codes: Any, offset: int) -> list[Any]:
        low = e.load(codes, 2, offset)
        if name == "q4":
            return [e.low_nibbles(low[0]), e.low_nibbles(low[1]), e.high_nibbles(low[0]), e.high_nibbles(low[1])]
        high = e.load(codes, 2, offset + 64)
        return [e.signed(w) for w in (*low, *high)]

    def body(e: Any, total: list[Any], codes: Any, scales: Any, block_bytes: Any, x: Any, tile_bytes: Any,
             x_scales: Any, group_bytes: Any) -> Sequence[Any]:  # fmt: skip
        for i in range(groups):
            a, s, here, there = [], [], codes, scales
            for r in range(blocks):
                a.append(fragment(e, here, i * size))
                s.append(e.f16_pair(e.load(there, 1, i * size)[0]))
                if r + 1 < blocks:
                    here, there = e.add(here, block_bytes), e.add(there, block_bytes)
            of_tile = x
            for n in range(tiles):
                b = e.read(of_tile, 2, i * GROUP)
                u = [e.bits_f(bits) for bits in e.read(x_scales, 2, 32 * n)]
                for r in range(blocks):
                    k = 4 * (r * tiles + n)
                    for j, product in enumerate(e.mma_i8(a[r], b)):
                        scale = e.mul_f(s[r][j // 2], u[j % 2])
                        total[k + j] = e.fma(e.float(product), scale, total[k + j])
                if n + 1 < tiles:
                    of_tile = e.add(of_tile, tile_bytes)
            if i + 1 < groups:
                x_scales = e.add(x_scales, group_bytes)
        return total

    return unrolled(body, 4 * blocks * tiles, *["b64"] * 7)


def unit(name: str) -> np.float32:
    """What the tensor core's sums are too large by: q4's codes come as 16 times themselves."""
    return np.float32(1 / 16 if name == "q4" else 1)


def split_kernel(op: str, name: str, tiles: int) -> Callable[..., None]:
    """For up to 8 * tiles tokens from block (·, y) on: a block of 16 rows for each thread block, its groups split over
    the warps."""
    f, operand, step = fields(op), operand_of(op), SHARED[tiles]
    X, LDY, GROUPS, BLOCK_BYTES = (f[key] for key in ("x", "ldy", "groups", "block_bytes"))
    start, several, single = zeros(4 * tiles), groups_word(name, 1, tiles, step), groups_word(name, 1, tiles, 1)
    size, lane_bytes, factor, sums = GROUP_BYTES[name], 64 if name == "q4" else 128, unit(name), 4 * tiles
    memory = shared(f"sums_{name}_{tiles}", SPLIT * sums * LANES * 4)

    def put(e: Any, total: list[Any], address: Any) -> Sequence[Any]:
        for k, value in enumerate(total):
            e.put_shared(address, [value], k * LANES * 4)
        return total

    keep = unrolled(put, sums, "b32")

    def kernel(row, context, extra):
        lane, warp = cuda.threadIdx.x % LANES, cuda.threadIdx.x // LANES
        g, t, first = lane // 4, lane % 4, cuda.blockIdx.y * 8 * tiles
        x, groups, tokens, places = at(row, X), at(row, GROUPS), count(extra), room(row)
        here, w, y, bias, accumulate, b = operand(row, more(extra), cuda.blockIdx.x, 1)
        w += b * at(here, BLOCK_BYTES)
        codes, scales = w + (SCALES + t * lane_bytes + g * 8), w + g * 4
        of_x = x + (first + g) * groups * GROUP + 8 * t
        x_scales, group_bytes = scales_at(x, groups, places, 0) + (first + 2 * t) * 4, places * 4
        total, whole, tile_bytes = start(), groups // step, 8 * groups * GROUP
        begin()
        for i in range(warp, whole, SPLIT):
            j = i * step
            total = several(total, codes + j * size, scales + j * size, 0, of_x + j * GROUP, tile_bytes,
                            x_scales + j * group_bytes, group_bytes)  # fmt: skip
        for j in range(whole * step + warp, groups, SPLIT):
            total = single(total, codes + j * size, scales + j * size, 0, of_x + j * GROUP, tile_bytes,
                           x_scales + j * group_bytes, group_bytes)  # fmt: skip
        held = memory()
        keep(total, held + (warp * sums * LANES + lane) * 4)
        cuda.syncthreads()
        ldy = at(here, LDY)
        for i in range(cuda.threadIdx.x, sums * LANES, SPLIT * LANES):
            value = F0
            for part in range(SPLIT):
                value += get_shared_f32(held + (part * sums * LANES + i) * 4)
            k, of = i // LANES, i % LANES
            r, token = b * BLOCK + 2 * (of // 4) + k % 4 // 2, first + k // 4 * 8 + 2 * (of % 4) + k % 2
            if token < tokens:
                value *= factor
                if bias != 0:
                    value += get_f32(bias + 4 * r)
                if accumulate != 0:
                    value += get_f32(y + (token * ldy + r) * 4)
                put_f32(y + (token * ldy + r) * 4, value)

    return kernel


def wide_kernel(op: str, name: str) -> Callable[..., None]:
    """For many tokens: a warp has some blocks of rows x 8 tiles of 8 tokens, with all their columns."""
    f, operand, blocks, tiles = fields(op), operand_of(op), WIDE_BLOCKS, WIDE_TILES
    X, LDY, GROUPS, BLOCK_BYTES, BLOCKS = (f[key] for key in ("x", "ldy", "groups", "block_bytes", "blocks"))
    start, product = zeros(4 * blocks * tiles), groups_word(name, blocks, tiles, 1)
    size, lane_bytes, factor = GROUP_BYTES[name], 64 if name == "q4" else 128, unit(name)
    finish = finish_word(blocks, tiles, float(factor))

    def kernel(row, context, extra):
        lane, warp = cuda.threadIdx.x % LANES, cuda.threadIdx.x // LANES
        g, t, first = lane // 4, lane % 4, cuda.blockIdx.y * 8 * tiles
        x, groups, tokens, places = at(row, X), at(row, GROUPS), count(extra), room(row)
        here, w, y, bias, accumulate, b = operand(row, more(extra), cuda.blockIdx.x * WIDE_WARPS + warp, blocks)
        left = at(here, BLOCKS) - b
        if left <= 0:
            return
        far = at(here, BLOCK_BYTES) if left >= blocks else 0  # past the last block: the same one again
        w += b * at(here, BLOCK_BYTES)
        codes, scales = w + (SCALES + t * lane_bytes + g * 8), w + g * 4
        of_x = x + (first + g) * groups * GROUP + 8 * t
        x_scales, group_bytes = scales_at(x, groups, places, 0) + (first + 2 * t) * 4, places * 4
        total, tile_bytes = start(), 8 * groups * GROUP
        begin()
        for _ in range(groups):
            total = product(total, codes, scales, far, of_x, tile_bytes, x_scales, group_bytes)
            codes += size
            scales += size
            of_x += GROUP
            x_scales += group_bytes
        ldy, r = at(here, LDY) * 4, b * BLOCK + 2 * g
        finish(total, y + (first + 2 * t) * ldy + 4 * r, ldy, bias + 4 * r if bias != 0 else 0, accumulate,
               tokens - first - 2 * t, left)  # fmt: skip

    return kernel


def finish_word(blocks: int, tiles: int, factor: float, apart: int = 0) -> Any:
    """A word that writes a warp's sums, times `factor`, to y: of each token a lane has two rows, which are neighbours,
    or 8 rows apart.

    y, bias: at the lane's first token and row; bias: 0 for none; tokens, left: how many there are of tokens from the
    lane's first on, and of blocks.
    """
    rows = ([0, 32], 1) if apart else ([0], 2)  # bytes from the first row to each access, and numbers of an access

    def body(e: Any, total: list[Any], y: Any, ldy: Any, bias: Any, accumulate: Any, tokens: Any,
             left: Any) -> Sequence[Any]:  # fmt: skip
        has_bias, adds = e.flag(e.less(e.i64(0), bias)), e.flag(e.less(e.i64(0), accumulate))
        places, wide = rows
        for r in range(blocks):
            inside = e.flag(e.less(e.i64(r), left))
            given = e.both(has_bias, inside)
            added = [x for place in places for x in e.get_if(given, e.add(bias, e.i64(64 * r + place)), wide)]
            for n in range(tiles):
                for second in range(2):
                    here = e.both(inside, e.flag(e.less(e.i64(8 * n + second), tokens)))
                    of_token = e.add(y, e.mul(ldy, e.i64(8 * n + second)))
                    k = 4 * (r * tiles + n) + second
                    values = [e.fma(total[k + 2 * j], e.f32(factor), added[j]) for j in range(2)]
                    for i, place in enumerate(places):
                        address = e.add(of_token, e.i64(64 * r + place))
                        old = e.get_if(e.both(here, adds), address, wide)
                        mine = values[i * wide : (i + 1) * wide]
                        e.put_if(here, address, [e.add_f(a, b) for a, b in zip(mine, old, strict=True)])
        return total[:1]

    return unrolled(body, 4 * blocks * tiles, *["b64"] * 6, results=1)


def plain_kernel(op: str, name: str) -> Callable[..., None]:
    """The same without tensor cores, for the simulator: a warp for each token and block."""
    f, operand, number, gated = fields(op), operand_of(op), packed(name), op.startswith("gated")
    X, LDY, GROUPS, BLOCK_BYTES, BLOCKS = (f[key] for key in ("x", "ldy", "groups", "block_bytes", "blocks"))

    def kernel(row, context, extra):
        x, groups, tokens, places = at(row, X), at(row, GROUPS), count(extra), room(row)
        units, parts = np.int64(0), more(extra)
        begin()
        for part in range(1 if gated else parts):
            units += at(row + part * 8 * ROW, BLOCKS) * (parts if gated else 1)
        for i in range(warp_here(), tokens * units, warps_there()):
            token = i % tokens
            here, w, y, bias, accumulate, b = operand(row, parts, i // tokens, 1)
            codes, block_bytes = x + token * groups * GROUP, at(here, BLOCK_BYTES)
            for r in range(b * BLOCK, (b + 1) * BLOCK):
                value = F0
                for g in range(groups):
                    product = F0
                    for c in range(g * GROUP, (g + 1) * GROUP):
                        product += number(w, r, c, 0, block_bytes) * np.float32(get_i8(codes + c))
                    value += product * get_f32(scales_at(x, groups, places, g) + 4 * token)
                if bias != 0:
                    value += get_f32(bias + 4 * r)
                place = y + (token * at(here, LDY) + r) * 4
                put_f32(place, value + get_f32(place) if accumulate != 0 else value)

    return kernel


def kernels() -> dict[str, Callable[[], Any]]:
    """The kernels of all packed products, by name."""
    found: dict[str, Callable[[], Any]] = {}
    for name in FORMATS:
        for op in (f"matmul_{name}", f"gated_{name}"):
            found[op] = lambda op=op, name=name: plain_kernel(op, name)
            found[f"{op}_wide"] = lambda op=op, name=name: wide_kernel(op, name)
            for tiles in SHARED:
                found[f"{op}_{tiles}"] = lambda op=op, name=name, tiles=tiles: split_kernel(op, name, tiles)
    return found


KERNELS = kernels()
