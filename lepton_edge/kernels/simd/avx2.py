"""AVX2 with FMA and F16C: a register is two ymm halves, dot products go through 16-bit pairs."""

from typing import Any

from llvmlite import ir

from ..layout import SCALES
from .native import Native
from .portable import FP4, I8, I16, I32, VI, Value, call, constant

BYTES, PAIRS, WORDS = ir.VectorType(I8, 32), ir.VectorType(I16, 16), ir.VectorType(I32, 8)


def looked_up(builder: Any, codes: Value) -> Value:
    """32 codes of mxfp4 as `Portable.fp4` says."""
    return call(builder, "llvm.x86.avx2.pshuf.b", BYTES, constant(FP4 * 2, BYTES), codes)


class AVX2(Native):
    name = "avx2"
    machine = "x86_64"
    cpu = "x86-64-v3"
    features = ""
    register_bytes, chains = 32, 6
    tiles = ((4, 1), (2, 1), (1, 1))
    lanes = 8
    plain_tokens = 3
    query_rows = (6, 4, 3, 1)
    query_registers = 6
    q8_bias_shift: int | None = None

    def pause(self) -> None:
        call(self.b, "llvm.x86.sse2.pause", ir.VoidType())

    def split(self, v: Value) -> tuple[Value, Value]:
        """The two ymm halves of a register, as bytes."""
        low, high = (constant(list(range(i, i + 8)), WORDS) for i in (0, 8))
        return tuple(self.b.bitcast(self.b.shuffle_vector(v, v, half), BYTES) for half in (low, high))  # type: ignore

    def join(self, low: Value, high: Value) -> Value:
        return self.b.shuffle_vector(low, high, constant(list(range(16)), VI))

    def pair_sums(self, u: Value, s: Value) -> Value:
        """u8 * s8 added in pairs to i16; saturates, so callers keep each pair below 2^15."""
        return call(self.b, "llvm.x86.avx2.pmadd.ub.sw", PAIRS, u, s)

    def widen_sums(self, pairs: Value) -> Value:
        return call(self.b, "llvm.x86.avx2.pmadd.wd", WORDS, pairs, constant(1, PAIRS))

    def dot_q4(self, start: Value, weights: Any, x: Any) -> Value:
        """Eight pair sums of nibbles fit i16 (8 * 2 * 15 * 127 = 30480), so they are widened once."""
        totals = []
        for half in (0, 1):
            sums = [self.pair_sums(self.split(w)[half], self.split(a)[half]) for w, a in zip(weights, x, strict=True)]
            pairs = sums[0]
            for more in sums[1:]:
                pairs = self.b.add(pairs, more)
            totals.append(self.widen_sums(pairs))
        return self.b.add(start, self.join(*totals))

    def dot_mxfp4(self, start: Value, weights: Any, x: Any) -> Value:
        """Bytes up to 24: four pair sums fit i16 (4 * 2 * 24 * 127 = 24384), eight would not."""
        return AVX2.dot_q4(self, AVX2.dot_q4(self, start, weights[:4], x[:4]), weights[4:], x[4:])

    def fp4(self, v: Value) -> Value:
        """By halves of the register, written out here: other sets borrow this word (see `emulated.py`)."""
        halves = []
        for first in (0, 8):
            half = self.b.shuffle_vector(v, v, constant(list(range(first, first + 8)), WORDS))
            halves.append(self.b.bitcast(looked_up(self.b, self.b.bitcast(half, BYTES)), WORDS))
        return self.b.shuffle_vector(*halves, constant(list(range(16)), VI))

    def dot_q8(self, start: Value, weights: Any, x: Any) -> Value:
        """Eight words of four columns, each widened at once: two pairs would not fit i16."""
        totals = [constant(0, WORDS), constant(0, WORDS)]
        for w, a in zip(weights, x, strict=True):
            for half in (0, 1):
                more = self.product_q8(self.signed_q8(self.split(w)[half]), self.split(a)[half])
                totals[half] = self.b.add(totals[half], more)
        return self.b.add(start, self.join(*totals))

    def signed_q8(self, stored: Value) -> tuple[Value, Value]:
        """(weights, their magnitudes) from weights + 128."""
        signed = self.b.xor(stored, constant(-128, BYTES))
        return signed, self.b.select(self.b.icmp_signed("<", signed, constant(0, BYTES)), self.b.neg(signed), signed)

    def product_q8(self, weights: tuple[Value, Value], x: Value) -> Value:
        """|w| * (x with w's sign), in sums of four: both are at most 127, so a pair is at most 32258 and fits i16."""
        signed, size = weights
        turned = call(self.b, "llvm.x86.avx2.psign.b", BYTES, x, signed)
        return self.widen_sums(self.pair_sums(size, turned))

    def group_products(
        self, name: str, total: list[Value], w: Value, x: Value, block_bytes: Value, tokens: int, blocks: int
    ) -> list[Value]:
        """Four columns at a time for all tokens: so the sums stay in the 16 registers, and not the weights.

        A single token shares the weights with no other, and takes them as `Portable` does.
        """
        if tokens == 1:
            return super().group_products(name, total, w, x, block_bytes, tokens, blocks)
        for b in range(blocks):
            sums: list[list[Value]] = [[constant(0, WORDS)] * 2 for _ in range(tokens)]
            for c in range(8):
                self.add_columns(name, sums, w, x, c)
                sums = self.in_order(sums)
            scale = self.load_scales(name, w)
            for t in range(tokens):
                product = self.to_f32(self.whole_sums(name, sums[t], x, tokens * 36 + 4 * t))
                scaled = self.mul(scale, self.broadcast_f32(x, tokens * 32 + 4 * t))
                total[t * blocks + b] = self.fma(product, scaled, total[t * blocks + b])
            w = self.b.add(w, block_bytes)
        return total

    def add_columns(self, name: str, sums: list[list[Value]], w: Value, x: Value, c: int) -> None:
        """Add the products of columns 4c … 4c+3 to each token's two halves of sums: i16 pairs for q4, else i32."""
        halves = self.stored(name, w, c)
        signed = [self.signed_q8(half) for half in halves] if name == "q8" else []
        for t, pair in enumerate(sums):
            repeated = self.split(self.broadcast_i32(x, 32 * t + 4 * c))[0]
            for half in (0, 1):
                if name == "q8":
                    pair[half] = self.b.add(pair[half], self.product_q8(signed[half], repeated))
                elif name == "mxfp4":
                    pair[half] = self.b.add(pair[half], self.widen_sums(self.pair_sums(halves[half], repeated)))
                else:
                    more = self.b.add(self.b.bitcast(pair[half], PAIRS), self.pair_sums(halves[half], repeated))
                    pair[half] = self.b.bitcast(more, WORDS)

    def stored(self, name: str, w: Value, c: int) -> list[Value]:
        """The two halves of a group's columns 4c … 4c+3, as unsigned bytes."""
        halves = []
        for half in (0, 1):
            v = self.load(w, SCALES + 64 * (c if name == "q8" else c // 2) + 32 * half, WORDS)
            if name != "q8":
                v = self.b.and_(self.b.lshr(v, constant(4, WORDS)) if c % 2 else v, constant(0x0F0F0F0F, WORDS))
            v = self.b.bitcast(v, BYTES)
            halves.append(looked_up(self.b, v) if name == "mxfp4" else v)
        return halves

    def whole_sums(self, name: str, pair: list[Value], x: Value, start: int) -> Value:
        """A token's sums of a group as i32, from where they start, as its record says at x + start."""
        if name == "q4":
            pair = [self.widen_sums(self.b.bitcast(half, PAIRS)) for half in pair]
        return self.b.add(self.join(*pair), self.start(name, self.broadcast_i32(x, start)))

    def in_order(self, sums: list[list[Value]]) -> list[list[Value]]:
        """The same values, but computed by now: LLVM would reorder the sums token by token, and spill the weights."""
        flat = [half for pair in sums for half in pair]
        kinds = [v.type for v in flat]
        kind = ir.FunctionType(ir.LiteralStructType(kinds), kinds)
        constraints = ["=x"] * len(flat) + [str(i) for i in range(len(flat))]
        result = self.b.asm(kind, "", ",".join(constraints), flat, side_effect=True)
        flat = [self.b.extract_value(result, i) for i in range(len(flat))]
        return [flat[i : i + 2] for i in range(0, len(flat), 2)]
