"""One instruction set's code with another's instructions: how its tiles are tested on machines that lack it."""

from typing import Any

from llvmlite import ir

from .emulated_grid import GRID_WORDS
from .neon import BYTES, WORDS, Neon
from .portable import Portable, Value, constant

__all__ = ["emulated"]

# The words that instruction sets spell with instructions of their own; all others are built from these, or portable.
MACHINE_WORDS = ("fma", "widen_f16", "narrow_f16", "dot4", "fp4", "pause")
PAIRS = ("round_pairs", "dot_bf16")  # a host has these of its own width only
# Arm Architecture Reference Manual, C7.2: whether a is unsigned, at which byte of a and of b each lane begins, and how
# many it takes.  Lane 2 i + j of a matrix product is row i of a by row j of b; rows are of eight bytes.
FOURS = (0, 4, 8, 12)
BYTE_PRODUCTS = {
    "sdot": (False, FOURS, FOURS, 4), "usdot": (True, FOURS, FOURS, 4), "usmmla": (True, (0, 0, 8, 8), (0, 8, 0, 8), 8),
}  # fmt: skip


def emulated(kind: type[Portable], host: type[Portable]) -> type[Portable]:
    """`kind` in all that a kernel sees (tiles, lanes, the order of its sums), compiled for `host`."""
    words = {word: getattr(host, word) for word in MACHINE_WORDS}
    words |= {word: getattr(host if kind.lanes == host.lanes else Portable, word) for word in PAIRS}
    if kind.grid:
        words |= GRID_WORDS
    if issubclass(kind, Neon):
        words |= {"dot4": kind.dot4, "instruction": neon_instruction}
    name = f"{kind.name}@{host.name}"
    machine = dict(name=name, machine=host.machine, cpu=host.cpu, features=host.features)
    return type(kind.__name__, (kind,), {**words, **machine})


def neon_instruction(isa: Portable, name: str, total: Value, a: Value, b: Value) -> Value:
    """`Neon.instruction` as a call of a function: written out everywhere it would take minutes to compile."""
    module = isa.b.module
    function = module.globals.get(f"lepton_{name}")
    if function is None:
        function = ir.Function(module, ir.FunctionType(WORDS, [WORDS, BYTES, BYTES]), f"lepton_{name}")
        function.linkage = "linkonce_odr"
        function.attributes.add("noinline")
        builder = ir.IRBuilder(function.append_basic_block())
        builder.ret(products(builder, name, *function.args))
    return isa.b.call(function, [total, *(isa.b.bitcast(v, BYTES) for v in (a, b))])


def products(builder: Any, name: str, total: Value, a: Value, b: Value) -> Value:
    """total and the products of single bytes that each of its lanes takes."""
    unsigned, first, second, count = BYTE_PRODUCTS[name]
    widen = builder.zext if unsigned else builder.sext
    for k in range(count):
        left, right = (builder.shuffle_vector(v, v, constant([n + k for n in lanes], WORDS))
                       for v, lanes in ((a, first), (b, second)))  # fmt: skip
        total = builder.add(total, builder.mul(widen(left, WORDS), builder.sext(right, WORDS)))
    return total
