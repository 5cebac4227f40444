"""AVX512-VNNI: one register is one zmm, and a dot product of four bytes per lane is one instruction."""

from typing import Any

from llvmlite import ir

from .portable import F32, HALF, VF, VH, VI, VS, Portable, Value, call, fused, lanes_of


class AVX512(Portable):
    name = "avx512"
    cpu = "x86-64-v4"
    features = "+avx512vnni,-prefer-256-bit"
    register_bytes, register_letter, chains = 64, "v", 12
    tiles = ((8, 1), (4, 1), (2, 2), (1, 4))
    query_rows = (8, 4, 1)
    query_registers = 16
    lanes = 16
    plain_tokens = 6
    q8_bias_shift: int | None = 4

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        return fused(self.b, a, b, c)

    def widen_f16(self, v: Value) -> Value:
        return self.b.fpext(self.b.bitcast(v, lanes_of(HALF, v)), lanes_of(F32, v))

    def narrow_f16(self, v: Value) -> Value:
        return self.b.bitcast(self.b.fptrunc(clamp_f16(self, v), VH), VS)

    def dot4(self, total: Value, a: Value, b: Value) -> Value:
        return call(self.b, "llvm.x86.avx512.vpdpbusd.512", VI, total, a, b)

    def dot_q8(self, start: Value, weights: Any, x: Any) -> Value:
        for w, a in zip(weights, x, strict=True):
            start = self.dot4(start, w, a)
        return start

    def pause(self) -> None:
        call(self.b, "llvm.x86.sse2.pause", ir.VoidType())


def clamp_f16(v: Portable, value: Value) -> Value:
    """Into the finite range of half floats, so that no infinity is stored; NaN stays NaN."""
    for sign, order in ((1, "<"), (-1, ">")):
        limit = v.splat(ir.Constant(ir.FloatType(), sign * 65504.0), VF)
        value = v.b.select(v.b.fcmp_unordered(order, value, limit), value, limit)
    return value
