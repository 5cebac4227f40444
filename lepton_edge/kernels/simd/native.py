"""What all machines with fused multiply-add and half float conversions spell alike."""

from llvmlite import ir

from .portable import F32, HALF, VF, VH, VS, Portable, Value, fused, lanes_of


class Native(Portable):
    """The base of the instruction sets: LLVM makes instructions of these where it may, and calls of libraries else."""

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        return fused(self.b, a, b, c)

    def widen_f16(self, v: Value) -> Value:
        return self.b.fpext(self.b.bitcast(v, lanes_of(HALF, v)), lanes_of(F32, v))

    def narrow_f16(self, v: Value) -> Value:
        """Clamped to the finite range of half floats, so that no infinity is stored; NaN stays NaN."""
        for sign, order in ((1, "<"), (-1, ">")):
            limit = self.splat(ir.Constant(ir.FloatType(), sign * 65504.0), VF)
            v = self.b.select(self.b.fcmp_unordered(order, v, limit), v, limit)
        return self.b.bitcast(self.b.fptrunc(v, VH), VS)
