"""AVX2 with FMA and F16C: a register is two ymm halves, dot products go through 16-bit pairs."""

from typing import Any

from llvmlite import ir

from .avx512 import clamp_f16
from .portable import I8, I16, I32, VF, VH, VI, VS, Portable, Value, call, constant

BYTES, PAIRS, WORDS = ir.VectorType(I8, 32), ir.VectorType(I16, 16), ir.VectorType(I32, 8)


class AVX2(Portable):
    name = "avx2"
    cpu = "x86-64-v3"
    features = ""
    tiles = ((4, 1), (2, 1), (1, 1))
    query_rows = (6, 4, 3, 1)
    query_registers = 6
    q8_bias_shift: int | None = None

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        return call(self.b, "llvm.fma.v16f32", VF, a, b, c)

    def widen_f16(self, v: Value) -> Value:
        return self.b.fpext(self.b.bitcast(v, VH), VF)

    def narrow_f16(self, v: Value) -> Value:
        return self.b.bitcast(self.b.fptrunc(clamp_f16(self, v), VH), VS)

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

    def dot_q8(self, start: Value, weights: Any, x: Any) -> Value:
        """|w| * (x with w's sign): both at most 127, so a pair is at most 32258 and never saturates."""
        flip = constant(-128, BYTES)
        totals = []
        for half in (0, 1):
            total = constant(0, WORDS)
            for w, a in zip(weights, x, strict=True):
                signed = self.b.xor(self.split(w)[half], flip)
                size = self.b.select(self.b.icmp_signed("<", signed, constant(0, BYTES)), self.b.neg(signed), signed)
                turned = call(self.b, "llvm.x86.avx2.psign.b", BYTES, self.split(a)[half], signed)
                total = self.b.add(total, self.widen_sums(self.pair_sums(size, turned)))
            totals.append(total)
        return self.b.add(start, self.join(*totals))
