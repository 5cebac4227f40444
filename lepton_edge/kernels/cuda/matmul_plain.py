"""y = W x for row-major weights (f32, f16, bf16) and float activations.

One or few tokens: a warp for each row, which reads it once.  Many: the tensor cores' TF32 products.  f16 and bf16 are
TF32 numbers as they are; a float is the sum of two such numbers but for its last bits, so x takes two products and f32
weights three, and sums are as good as those of floats.  A launch runs `more` rows of the table that share x.
"""

from collections.abc import Callable, Sequence
from typing import Any

from numba import config, cuda

from ..layout import BLOCK
from ..ops import PLAIN, ROW
from .common import F0, at, count, more, warp_here, warps_there
from .elementwise import fields
from .embed import getter
from .words import LANES, begin, get_f32, jit, put_f32, warp_sum

if not config.ENABLE_CUDASIM:
    from .matmul_packed import finish_word
    from .ptx import unrolled, zeros

__all__ = ["KERNELS"]

SIZES = {"f32": 4, "f16": 2, "bf16": 2}
FEW = (1, 4)  # tokens that a warp multiplies a row with at once
WIDE = {"2": (1, 2), "wide": (2, 8)}  # name -> of a warp: blocks of 16 rows, tiles of 8 tokens
WIDE_WARPS = 4
STEP = 16  # columns that the tensor cores take at a time


def operand_of(op: str) -> Callable[..., Any]:
    """A word (row, parts, b, step) -> (row, b): the b-th `step` rows of all parts' weights."""
    ROWS = fields(op)["rows"]

    @jit
    def operand(row, parts, b, step):
        for _ in range(parts - 1):
            units = (at(row, ROWS) + step - 1) // step
            if b < units:
                break
            b -= units
            row += 8 * ROW
        return row, b * step

    return operand


def few_word(name: str, tokens: int) -> Any:
    """A word (sums, w, x, bytes from token to token) that adds the products of 8 columns of a row and some tokens."""

    def body(e: Any, total: list[Any], w: Any, x: Any, far: Any) -> Sequence[Any]:
        if name == "f32":
            weights = [e.bits_f(bits) for half in (0, 16) for bits in e.load(w, 4, half)]
        elif name == "f16":
            weights = [value for bits in e.load(w, 4) for value in e.f16_pair(bits)]
        else:
            weights = [value for bits in e.load(w, 4) for value in e.bf16_pair(bits)]
        for n in range(tokens):
            values = [e.bits_f(bits) for half in (0, 16) for bits in e.read(x, 4, half)]
            for a, b in zip(weights, values, strict=True):
                total[n] = e.fma(a, b, total[n])
            if n + 1 < tokens:
                x = e.add(x, far)
        return total

    return unrolled(body, tokens, "b64", "b64", "b64")


def few_kernel(name: str, tokens: int) -> Callable[..., None]:
    """A warp for each row and `tokens` tokens; columns in multiples of 8."""
    op = f"matmul_{name}"
    f, operand, size = fields(op), operand_of(op), SIZES[name]
    X, LDX, COLUMNS, W, Y, LDY, BIAS, ACCUMULATE, ROWS = (
        f[key] for key in ("x", "ldx", "columns", "w", "y", "ldy", "bias", "accumulate", "rows")
    )
    start, product = zeros(tokens), few_word(name, tokens)
    pick = [unrolled(lambda e, held, k=k: [held[k]], tokens, results=1) for k in range(tokens)]
    first_of, last_of = pick[0], pick[-1]
    second_of, third_of = pick[min(1, tokens - 1)], pick[min(2, tokens - 1)]

    @jit
    def sum_of(total, n):
        if n == 0:
            return warp_sum(first_of(total)[0])
        if n == 1:
            return warp_sum(second_of(total)[0])
        if n == 2:
            return warp_sum(third_of(total)[0])
        return warp_sum(last_of(total)[0])

    def kernel(row, context, extra):
        lane, warps = cuda.threadIdx.x % LANES, cuda.blockDim.x // LANES
        here, r = operand(row, more(extra), cuda.blockIdx.x * warps + cuda.threadIdx.x // LANES, 1)
        if r >= at(here, ROWS):
            return
        first, far, columns = cuda.blockIdx.y * tokens, at(row, LDX) * 4, at(row, COLUMNS)
        x, w, total = at(row, X) + first * far, at(here, W) + r * columns * size, start()
        begin()
        for i in range(lane * 8, columns, LANES * 8):
            total = product(total, w + i * size, x + i * 4, far)
        for n in range(min(tokens, count(extra) - first)):
            value = sum_of(total, n)
            if lane == 0:
                if at(here, BIAS) != 0:
                    value += get_f32(at(here, BIAS) + 4 * r)
                y = at(here, Y) + ((first + n) * at(here, LDY) + r) * 4
                put_f32(y, value + get_f32(y) if at(here, ACCUMULATE) != 0 else value)

    return kernel


def step_word(name: str, blocks: int, tiles: int) -> Any:
    """A word that adds the products of 16 columns: lane 4 g + t holds the rows g and g + 8, and 4 columns from 4 t on.

    w: the lane's in the first block; half: bytes from row g to row g + 8; ahead: to the next block; x: of the lane's
    token of the first tile; far: to that of the next tile.
    """

    def weights(e: Any, address: Any) -> tuple[list[Any], list[Any]]:
        """Four numbers as TF32, and what is left of them, nothing but for f32."""
        if name == "f32":
            split = [e.tf32_parts(e.bits_f(bits)) for bits in e.load(address, 4)]
            return [pair[0] for pair in split], [pair[1] for pair in split]
        unpack = e.f16_pair if name == "f16" else e.bf16_pair
        return e.as_bits([value for bits in e.load(address, 2) for value in unpack(bits)]), []

    def body(e: Any, total: list[Any], w: Any, half: Any, ahead: Any, x: Any, far: Any) -> Sequence[Any]:
        a = []
        for r in range(blocks):
            a.append((weights(e, w), weights(e, e.add(w, half))))
            if r + 1 < blocks:
                w = e.add(w, ahead)
        for n in range(tiles):
            split = [e.tf32_parts(e.bits_f(bits)) for bits in e.read(x, 4)]
            for r in range(blocks):
                k = 4 * (r * tiles + n)
                held = total[k : k + 4]
                (up, up_rest), (down, down_rest) = a[r]
                for c in (0, 2):
                    high, low = [split[c][0], split[c + 1][0]], [split[c][1], split[c + 1][1]]
                    main = [up[c], down[c], up[c + 1], down[c + 1]]
                    if up_rest:
                        held = e.mma_tf32(held, [up_rest[c], down_rest[c], up_rest[c + 1], down_rest[c + 1]], high)
                    held = e.mma_tf32(held, main, low)
                    held = e.mma_tf32(held, main, high)
                total[k : k + 4] = held
            if n + 1 < tiles:
                x = e.add(x, far)
        return total

    return unrolled(body, 4 * blocks * tiles, *["b64"] * 5)


def wide_kernel(name: str, shape: str) -> Callable[..., None]:
    """A warp has some blocks of 16 rows x some tiles of 8 tokens; columns in multiples of 16, rows too."""
    op, (blocks, tiles) = f"matmul_{name}", WIDE[shape]
    f, operand, size = fields(op), operand_of(op), SIZES[name]
    X, LDX, COLUMNS, W, Y, LDY, BIAS, ACCUMULATE, ROWS = (
        f[key] for key in ("x", "ldx", "columns", "w", "y", "ldy", "bias", "accumulate", "rows")
    )
    start, product = zeros(4 * blocks * tiles), step_word(name, blocks, tiles)
    finish = finish_word(blocks, tiles, 1.0, 1)

    def kernel(row, context, extra):
        lane, warp = cuda.threadIdx.x % LANES, cuda.threadIdx.x // LANES
        g, t, first = lane // 4, lane % 4, cuda.blockIdx.y * 8 * tiles
        here, r = operand(row, more(extra), cuda.blockIdx.x * WIDE_WARPS + warp, BLOCK * blocks)
        left = (at(here, ROWS) - r) // BLOCK
        if left <= 0:
            return
        columns, far = at(row, COLUMNS), at(row, LDX) * 4
        half = 8 * columns * size
        ahead = 2 * half if left >= blocks else 0  # past the last block: the same one again
        x, w = at(row, X) + (first + g) * far + 16 * t, at(here, W) + ((r + g) * columns + 4 * t) * size
        total = start()
        begin()
        for _ in range(columns // STEP):
            total = product(total, w, half, ahead, x, 8 * far)
            w += STEP * size
            x += STEP * 4
        ldy, bias = at(here, LDY) * 4, at(here, BIAS)
        finish(total, at(here, Y) + (first + 2 * t) * ldy + 4 * (r + g), ldy, bias + 4 * (r + g) if bias != 0 else 0,
               at(here, ACCUMULATE), count(extra) - first - 2 * t, left)  # fmt: skip

    return kernel


def plain_kernel(name: str) -> Callable[..., None]:
    """A warp for each token and row, of any sizes."""
    op = f"matmul_{name}"
    f, operand, number = fields(op), operand_of(op), getter(name)
    X, LDX, COLUMNS, W, Y, LDY, BIAS, ACCUMULATE, ROWS = (
        f[key] for key in ("x", "ldx", "columns", "w", "y", "ldy", "bias", "accumulate", "rows")
    )

    def kernel(row, context, extra):
        tokens, columns = count(extra), at(row, COLUMNS)
        rows, parts = 0, more(extra)
        begin()
        for part in range(parts):
            rows += at(row + part * 8 * ROW, ROWS)
        for i in range(warp_here(), rows * tokens, warps_there()):
            token = i % tokens
            here, r = operand(row, parts, i // tokens, 1)
            x, w, value = at(row, X) + token * at(row, LDX) * 4, at(here, W), F0
            for c in range(cuda.threadIdx.x % LANES, columns, LANES):
                value += number(w, r, c, columns, 0) * get_f32(x + c * 4)
            value = warp_sum(value)
            if cuda.threadIdx.x % LANES == 0:
                if at(here, BIAS) != 0:
                    value += get_f32(at(here, BIAS) + 4 * r)
                y = at(here, Y) + (token * at(here, LDY) + r) * 4
                put_f32(y, value + get_f32(y) if at(here, ACCUMULATE) != 0 else value)

    return kernel


def kernels() -> dict[str, Callable[[], Any]]:
    """The kernels of all plain products, by name."""
    found: dict[str, Callable[[], Any]] = {}
    for name in PLAIN:
        op = f"matmul_{name}"
        found[op] = lambda name=name: plain_kernel(name)
        for tokens in FEW:
            found[f"{op}_few{tokens}"] = lambda name=name, tokens=tokens: few_kernel(name, tokens)
        for shape in WIDE:
            found[f"{op}_{shape}"] = lambda name=name, shape=shape: wide_kernel(name, shape)
    return found


KERNELS = kernels()
