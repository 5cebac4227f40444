"""Probes of the machine: how fast it computes on registers alone, and how fast it reads.  The limits of all kernels.

A probe is called as every kernel is, but with numbers of its own: an address of PROBE_BYTES that its operands come from
and its result goes to, so that no work is foreseen or dropped; a count; and for `probe_read` the address to read from.
"""

from collections.abc import Callable, Sequence
from typing import Any

from .simd.portable import VF, VI
from .simd.words import ISA, add, f32x16, i64, jit, load_f32, store_f32, unrolled, zeros

OPERANDS = 3  # registers on each side of the dot products: nine pairs, of which a group product takes eight


def multiply(isa: Any, total: list, a: Any, b: Any) -> Sequence:
    """An fma for every accumulator."""
    for i, value in enumerate(total):
        a = isa.opaque(a)  # else a machine without fma would multiply once for all
        total[i] = isa.fma(a, b, value)
    return total


def dot(isa: Any, total: list, *operands: Any) -> Sequence:
    """A group product, 16 rows of 32 columns, for every accumulator."""
    weights, x = ([isa.b.bitcast(v, VI) for v in side] for side in (operands[:OPERANDS], operands[OPERANDS:]))
    for i, value in enumerate(total):
        x = [isa.opaque(v) for v in x]  # else products would be shared
        left, right = zip(*[(w, v) for w in weights for v in x][:8], strict=True)
        total[i] = isa.b.bitcast(isa.dot_q4(isa.b.bitcast(value, VI), left, right), VF)
    return total


def save(isa: Any, total: list, y: Any) -> Sequence:
    """The sum of all accumulators to y."""
    for value in total[1:]:
        total[0] = isa.add(total[0], value)
    isa.store_f32(y, total[0])
    return total


zero, store = zeros(ISA.chains), unrolled(save, ISA.chains, i64)


def fma_probe() -> Callable:
    """`turns` times an fma of 16 lanes for each of the chains."""
    turn = unrolled(multiply, ISA.chains, f32x16, f32x16)

    @jit
    def kernel(memory, turns, unused):
        total, a, b = zero(), load_f32(memory), load_f32(memory + 64)
        for _ in range(turns):
            total = turn(total, a, b)
        store(total, memory)

    return kernel


def dot_probe() -> Callable:
    """`turns` times a group product for each of the chains, as the packed matrix kernels do them."""
    turn = unrolled(dot, ISA.chains, *[f32x16] * (2 * OPERANDS))

    @jit
    def kernel(memory, turns, unused):
        total = zero()
        a, b, c = load_f32(memory), load_f32(memory + 64), load_f32(memory + 128)
        d, e, f = load_f32(memory + 192), load_f32(memory + 256), load_f32(memory + 320)
        for _ in range(turns):
            total = turn(total, a, b, c, d, e, f)
        store(total, memory)

    return kernel


@jit
def read(memory, nbytes, address):
    """Read nbytes, a multiple of 256, at `address`; in four streams, which are a tenth faster than one."""
    a, b, c, d = load_f32(memory), load_f32(memory), load_f32(memory), load_f32(memory)
    quarter = nbytes // 4
    for at in range(address, address + quarter, 64):
        a, b = add(a, load_f32(at)), add(b, load_f32(at + quarter))
        c, d = add(c, load_f32(at + 2 * quarter)), add(d, load_f32(at + 3 * quarter))
    store_f32(memory, add(add(a, b), add(c, d)))


KERNELS = {"probe_fma": fma_probe, "probe_dot": dot_probe, "probe_read": lambda: read}
