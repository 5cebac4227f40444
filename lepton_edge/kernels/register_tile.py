"""What the kernels of packed weights do with a tile of sums once it is whole."""

from collections.abc import Callable, Sequence
from typing import Any

from .simd.words import i64, unrolled


def finish(tokens: int, blocks: int) -> tuple[Callable, Callable]:
    """Words that add what lies at an address to a tile (the bias, or the old y), and that store the tile in y."""

    def each(action: Callable) -> Callable:
        def body(isa: Any, total: list, address: Any, stride: Any) -> Sequence:
            for t in range(tokens):
                for b in range(blocks):
                    total[t * blocks + b] = action(isa, total[t * blocks + b], address, 64 * b)
                address = isa.b.add(address, stride)
            return total

        return unrolled(body, tokens * blocks, i64, i64)

    def plus(isa: Any, value: Any, address: Any, offset: int) -> Any:
        return isa.add(value, isa.load_f32(address, offset))

    def store(isa: Any, value: Any, address: Any, offset: int) -> Any:
        isa.store_f32(address, value, offset)
        return value

    return each(plus), each(store)
