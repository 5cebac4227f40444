"""NEON with Armv8.2 dot products: a register is four of 128 bits, and four bytes of each lane are one `sdot`."""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from .native import Native
from .portable import F32, FP4, I8, I32, VI, Value, call, constant

BYTES, WORDS, FLOATS = ir.VectorType(I8, 16), ir.VectorType(I32, 4), ir.VectorType(F32, 4)


class Neon(Native):
    name = "neon"
    machine: str | None = "aarch64"
    features = "+dotprod,+lse"
    # 32 registers of 4 lanes: 16 sums, 8 with the tokens' columns, 4 products, and the weights pass through the rest.
    tiles: tuple[tuple[int, int], ...] = ((4, 1), (2, 1), (1, 1))
    register_letter, chains = "w", 6
    plain_tokens = 4
    panel_tile = (12, 2)

    def pause(self) -> None:
        """`yield` does nothing on most cores; a barrier for instructions takes about as long as x86's pause."""
        call(self.b, "llvm.aarch64.isb", ir.VoidType(), ir.Constant(I32, 15))

    def high_nibbles(self, v: Value) -> Value:
        """Shifting bytes needs no mask."""
        eights = self.b.bitcast(v, ir.VectorType(I8, 64))
        return self.b.bitcast(self.b.lshr(eights, constant(4, eights.type)), VI)

    def quarter(self, v: Value, i: int) -> Value:
        """Lanes 4 i to 4 i + 3 of a register."""
        return self.b.shuffle_vector(v, v, constant(list(range(4 * i, 4 * i + 4)), WORDS))

    def join(self, parts: Sequence[Value]) -> Value:
        """One register of its quarters, or half of one of two."""
        while len(parts) > 1:
            order = constant(list(range(2 * parts[0].type.count)), ir.VectorType(I32, 2 * parts[0].type.count))
            parts = [self.b.shuffle_vector(a, b, order) for a, b in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]

    def instruction(self, name: str, total: Value, a: Value, b: Value) -> Value:
        """What this instruction adds to four words from the products of 16 bytes of a with 16 of b."""
        a, b = (self.b.bitcast(v, BYTES) for v in (a, b))
        return call(self.b, f"llvm.aarch64.neon.{name}.v4i32.v16i8", WORDS, total, a, b)

    def dot(self, total: Value, a: Value, b: Value) -> Value:
        """total[lane] += sum over the lane's 4 bytes of a * b, four lanes; a must be signed, or below 128."""
        return self.instruction("sdot", total, a, b)

    def dot4(self, total: Value, a: Value, b: Value) -> Value:
        """Bytes of a below 128 are the same to `dot`, which reads them as signed."""
        quarters = ([self.quarter(v, i) for v in (total, a, b)] for i in range(4))
        return self.join([self.dot(*operands) for operands in quarters])

    def codes(self, name: str, v: Value) -> Value:
        """A quarter of unpacked weights as `dot` takes them: q8 made signed."""
        return self.b.xor(v, constant(0x80808080 - (1 << 32), WORDS)) if name == "q8" else v

    def fp4(self, v: Value) -> Value:
        table, found = constant(FP4, BYTES), []
        for i in range(4):
            codes = self.b.bitcast(self.quarter(v, i), BYTES)
            found.append(self.b.bitcast(call(self.b, "llvm.aarch64.neon.tbl1.v16i8", BYTES, table, codes), WORDS))
        return self.join(found)

    def add_group(self, total: list[Value], name: str, weights: Any, scales: Any, x: Value,
                  tokens: int) -> list[Value]:  # fmt: skip
        """A quarter after the other, so that the products of all tokens with its four rows are in registers."""
        blocks = len(weights)
        columns = [[self.load(x, 32 * t + i, WORDS) for i in (0, 16)] for t in range(tokens)]
        x_scales = [self.splat(self.load(x, tokens * 32 + 4 * t, F32), FLOATS) for t in range(tokens)]
        sums_of_x = [self.splat(self.load(x, tokens * 36 + 4 * t, I32), WORDS) for t in range(tokens)]
        starts = [self.start(name, found) for found in sums_of_x]
        sums = [[self.quarter(v, i) for i in range(4)] for v in total]
        for b in range(blocks):
            for i in range(4):
                codes = [self.codes(name, self.quarter(v, i)) for v in weights[b]]
                scale = self.quarter(scales[b], i)
                for t, product in enumerate(self.products(starts, codes, columns)):
                    factor = self.b.fmul(scale, x_scales[t])
                    product, old = self.b.sitofp(product, FLOATS), sums[t * blocks + b][i]
                    sums[t * blocks + b][i] = self.fma(product, factor, old)
        return [self.join(quarters) for quarters in sums]

    def products(self, starts: Sequence[Value], codes: Sequence[Value], columns: Sequence[Any]) -> list[Value]:
        """Four rows (eight registers of four columns each) by 32 columns of every token; -> four lanes for each."""
        found = list(starts)
        for c, w in enumerate(codes):
            for t, x in enumerate(columns):
                four = self.b.shuffle_vector(x[c // 4], x[c // 4], constant(c % 4, WORDS))
                found[t] = self.dot(found[t], w, four)
        return found
