"""What the GPU can do at most, measured by kernels that do nothing else: the int8 tensor cores."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from numba import config

from .layout import PROBE_CHAINS
from .words import put_f32

if not config.ENABLE_CUDASIM:
    from .ptx import unrolled, zeros

__all__ = ["KERNELS"]


def probe_mma() -> Callable[..., None]:
    """`extra` rounds of products in registers; the address `row` takes a number that they lead to."""

    def body(e: Any, held: list[Any]) -> Sequence[Any]:
        bits = e.as_bits(held)
        a, b = [e.add(bits[0], e.i32(i)) for i in range(4)], [e.add(bits[1], e.i32(i)) for i in range(2)]
        return [e.bits_f(e.mma_i8([*a[1:], e.add(bits[i], e.i32(i))], b)[0]) for i in range(PROBE_CHAINS)]

    def add(e: Any, held: list[Any]) -> Sequence[Any]:
        return [functools.reduce(e.add_f, held)]

    start, step = zeros(PROBE_CHAINS), unrolled(body, PROBE_CHAINS)
    whole = unrolled(add, PROBE_CHAINS, results=1)  # else the compiler leaves chains out

    def kernel(row, context, extra):
        held = start()
        for _ in range(extra):
            held = step(held)
        total = whole(held)[0]
        if total != total:
            put_f32(row, total)

    return kernel


KERNELS: dict[str, Callable[[], Any]] = {"probe_mma": probe_mma}
