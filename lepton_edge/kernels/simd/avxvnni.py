"""AVX-VNNI: AVX2 whose ymm halves have the dot product of four bytes (Alder Lake and later, Zen 5)."""

from typing import Any

from .avx2 import AVX2, WORDS
from .avx512 import AVX512
from .portable import Portable, Value, call


class AVXVNNI(AVX2):
    name = "avxvnni"
    features = "+avxvnni"
    q8_bias_shift: int | None = AVX512.q8_bias_shift

    def dot4(self, total: Value, a: Value, b: Value) -> Value:
        """Without AVX512VL the instruction of this name has the short (VEX) encoding that these machines know."""
        halves = zip(*(self.split(v) for v in (total, a, b)), strict=True)
        kind = "llvm.x86.avx512.vpdpbusd.256"
        return self.join(*(call(self.b, kind, WORDS, self.b.bitcast(t, WORDS), *rest) for t, *rest in halves))

    def dot_q4(self, start: Value, weights: Any, x: Any) -> Value:
        return Portable.dot_q4(self, start, weights, x)

    def dot_mxfp4(self, start: Value, weights: Any, x: Any) -> Value:
        return Portable.dot_q4(self, start, weights, x)

    def dot_q8(self, start: Value, weights: Any, x: Any) -> Value:
        for w, a in zip(weights, x, strict=True):
            start = self.dot4(start, w, a)
        return start

    def add_columns(self, name: str, sums: list[list[Value]], w: Value, x: Value, c: int) -> None:
        """As AVX2, but all sums are i32."""
        stored = self.join(*(self.b.bitcast(half, WORDS) for half in self.stored(name, w, c)))
        for t, pair in enumerate(sums):
            total = self.dot4(self.join(*pair), stored, self.broadcast_i32(x, 32 * t + 4 * c))
            pair[:] = (self.b.bitcast(half, WORDS) for half in self.split(total))

    def whole_sums(self, name: str, pair: list[Value], x: Value, start: int) -> Value:
        return self.b.add(self.join(*pair), self.start(name, self.broadcast_i32(x, start)))
