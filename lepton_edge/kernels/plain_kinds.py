"""What the two ways through row-major weights share: a register of weights, its chunks of columns, ragged sums."""

from collections.abc import Callable
from typing import Any

from .layout import CHUNK, PANEL_ROWS
from .simd.words import ISA, get_f32, jit, put_f32

SIZES = {"f32": 4, "f16": 2, "bf16": 2}
REGISTER = 4 * ISA.lanes  # bytes


class Kind:
    """What a step of one register of weights does for a format on the instruction set that is being built."""

    def __init__(self, name: str) -> None:
        self.name, self.size = name, SIZES[name]
        self.pairs = name == "bf16" and ISA.bf16_pairs
        self.columns = ISA.lanes * (2 if self.pairs else 1)
        self.grid = self.pairs and ISA.grid
        # Tokens from which on a panel of at most `share` rows is worth transposing.
        self.many = 0 if self.grid else 36 if self.pairs else 72
        self.share = 384 if self.grid else PANEL_ROWS

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


def chunks(kind: Kind) -> Callable:
    """A function of the columns: how many of them are summed at a time, so that all chunks are about as long."""
    most = CHUNK * kind.columns // ISA.lanes

    @jit
    def chunk(columns):
        parts = (columns + most - 1) // most
        return (columns + 32 * parts - 1) // (32 * parts) * 32

    return chunk


@jit
def put_sums(sums, ld, tokens, rows, y, ldy, bias, accumulate):
    """Sums of a few rows to y, plus the bias and what y holds, and nothing past the rows."""
    for t in range(tokens):
        for r in range(rows):
            value = get_f32(sums + t * ld + r * 4)
            if bias != 0:
                value += get_f32(bias + r * 4)
            if accumulate != 0:
                value += get_f32(y + t * ldy + r * 4)
            put_f32(y + t * ldy + r * 4, value)
