"""NEON with int8 matrix products: two rows by two tokens, eight columns each, are one `usmmla`."""

from collections.abc import Sequence
from typing import Any

from .neon import Neon
from .portable import Value

LOW, HIGH, EVEN, ODD = ([0, 4, 1, 5], [2, 6, 3, 7], [0, 2, 4, 6], [1, 3, 5, 7])


class I8MM(Neon):
    name = "i8mm"
    features = "+dotprod,+lse,+i8mm"
    # Eight tokens halve the cost of unpacking weights for each product; their sums lie on the stack meanwhile.
    tiles = ((8, 1), (4, 1), (2, 1), (1, 1))
    q8_bias_shift: int | None = 4

    def codes(self, name: str, v: Value) -> Value:
        return v

    def dot(self, total: Value, a: Value, b: Value) -> Value:
        """As in Neon, but a is unsigned."""
        return self.instruction("usdot", total, a, b)

    def matrix(self, total: Value, a: Value, b: Value) -> Value:
        """total + a b^T, lane 2 i + j for row i of a, unsigned, and row j of b, signed; rows are 8 bytes."""
        return self.instruction("usmmla", total, a, b)

    def products(self, starts: Sequence[Value], codes: Sequence[Value], columns: Sequence[Any]) -> list[Value]:
        """Tokens in pairs, and rows in pairs: zipping two registers makes eight columns of a row lie together."""
        if len(starts) == 1:
            return super().products(starts, codes, columns)
        fours = zip(codes[::2], codes[1::2], strict=True)
        eights = [[self.pick(a, b, lanes) for lanes in (LOW, HIGH)] for a, b in fours]
        found = []
        for t in range(0, len(starts), 2):
            start = self.pick(starts[t], starts[t + 1], LOW)
            upper, lower = start, start
            for c, (two, next_two) in enumerate(eights):
                first, second = columns[t][c // 2], columns[t + 1][c // 2]
                half = [c % 2 * 2, c % 2 * 2 + 1]
                x = self.pick(first, second, [*half, *(4 + i for i in half)])
                upper, lower = self.matrix(upper, two, x), self.matrix(lower, next_two, x)
            found += [self.pick(upper, lower, lanes) for lanes in (EVEN, ODD)]
        return found
