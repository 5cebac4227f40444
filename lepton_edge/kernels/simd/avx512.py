"""AVX512-VNNI: one register is one zmm, and a dot product of four bytes per lane is one instruction."""

from typing import Any

from llvmlite import ir

from .native import Native
from .portable import FP4, I8, I16, VF, VI, Value, call, constant


class AVX512(Native):
    name = "avx512"
    machine = "x86_64"
    cpu = "x86-64-v4"
    features = "+avx512vnni,-prefer-256-bit"
    register_bytes, register_letter, chains = 64, "v", 12
    tiles: tuple[tuple[int, int], ...] = ((8, 1), (4, 1), (2, 2), (1, 4))
    query_rows = (8, 4, 1)
    query_registers = 16
    lanes = 16
    plain_tokens = 6
    panel_tile = (12, 2)
    q8_bias_shift: int | None = 4

    def ratio(self, a: Value, b: Value) -> Value:
        """An estimate of 1 / b, 14 bits, and one step of Newton's: a division keeps a port busy for 16 cycles."""
        whole = ir.Constant(I16, -1)
        guess = call(self.b, "llvm.x86.avx512.rcp14.ps.512", VF, b, constant(0.0, VF), whole)
        error = self.fma(self.b.fneg(b), guess, constant(1.0, VF))
        return self.mul(a, self.fma(guess, error, guess))

    def dot4(self, total: Value, a: Value, b: Value) -> Value:
        return call(self.b, "llvm.x86.avx512.vpdpbusd.512", VI, total, a, b)

    def fp4(self, v: Value) -> Value:
        kind = ir.VectorType(I8, 64)
        codes = self.b.bitcast(v, kind)
        return self.b.bitcast(call(self.b, "llvm.x86.avx512.pshuf.b.512", kind, constant(FP4 * 4, kind), codes), VI)

    def dot_q8(self, start: Value, weights: Any, x: Any) -> Value:
        for w, a in zip(weights, x, strict=True):
            start = self.dot4(start, w, a)
        return start

    def pause(self) -> None:
        call(self.b, "llvm.x86.sse2.pause", ir.VoidType())
