"""The instructions that x86 sets are named after are in the code that LLVM makes of their words, on whatever host."""

import pytest
from processes import run_python

# Prints the assembly of one word of one instruction set; a child, because a word that LLVM cannot spell aborts.
EMIT = """
import sys
import llvmlite.binding as llvm
from llvmlite import ir
from lepton_edge.kernels.machine import instruction_set

llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
kind, word = instruction_set(sys.argv[1]), sys.argv[2]
lanes, size = (16, ir.IntType(32)) if word in ("dot4", "fp4") else (kind.lanes, ir.FloatType())
register = ir.VectorType(size, lanes)
module = ir.Module()
function = ir.Function(module, ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * 4), "f")
builder = ir.IRBuilder(function.append_basic_block())
isa = kind(builder)
operands = [isa.load(address, 0, register) for address in function.args[: {"round_pairs": 2, "fp4": 1}.get(word, 3)]]
isa.store(function.args[3], 0, getattr(isa, word)(*operands))
builder.ret_void()
target = llvm.Target.from_triple("x86_64-unknown-linux-gnu")
machine = target.create_target_machine(cpu=kind.cpu, features=kind.features, opt=2)
print(machine.emit_assembly(llvm.parse_assembly(str(module))))
"""


def lines(isa: str, word: str) -> list[str]:
    """The instructions of `word`, without the spaces at their beginning and comments."""
    code = run_python("-c", EMIT, isa, word)
    return [line.strip().replace("\t", " ") for line in code.splitlines() if line.startswith("\t")]


@pytest.mark.parametrize(("isa", "word", "instruction", "register", "count"), [
    ("avx512", "dot4", "vpdpbusd", "%zmm", 1),
    ("avx512bf16", "dot4", "vpdpbusd", "%zmm", 1),
    ("avxvnni", "dot4", "{vex} vpdpbusd", "%ymm", 2),
    ("avx512bf16", "dot_bf16", "vdpbf16ps", "%zmm", 1),
    ("avx512bf16", "round_pairs", "vcvtne2ps2bf16", "%zmm", 1),
    ("avx512", "fma", "vfmadd", "%zmm", 1),
    ("avx2", "fma", "vfmadd", "%ymm", 1),
    ("avx512", "fp4", "vpshufb", "%zmm", 1),
    ("avx2", "fp4", "vpshufb", "%ymm", 2),
])  # fmt: skip
def test_words_are_single_instructions(isa, word, instruction, register, count):
    code = lines(isa, word)
    found = [line for line in code if line.startswith(instruction)]
    assert len(found) == count and all(register in line for line in found), "\n".join(code)
    moves = ("vmov", "movabsq", "vzeroupper", "ret", ".", instruction)  # movabsq: the address of a table
    assert all(line.startswith(moves) for line in code), "\n".join(code)


@pytest.mark.parametrize(("isa", "word", "instruction", "sources"), [
    # In this order of writing the last source comes first.  The bytes of a are unsigned, the other operand's signed;
    # of two registers that become one, the first is the low half (Intel, Software Developer's Manual 2).
    ("avx512", "dot4", "vpdpbusd", ["third", "second", "first"]),
    ("avxvnni", "dot4", "vpdpbusd", ["third", "second", "first"]),
    ("avx512bf16", "round_pairs", "vcvtne2ps2bf16", ["first", "second"]),
])  # fmt: skip
def test_operands_are_in_their_places(isa, word, instruction, sources):
    """Emulation replaces these words, so that what they compute is seen on the machine itself only."""
    names, held = {"%rdi": "first", "%rsi": "second", "%rdx": "third"}, {}
    for line in lines(isa, word):
        called, _, rest = line.removeprefix("{vex} ").partition(" ")
        operands = [names.get(o.partition("(")[2][:-1], held.get(o)) for o in rest.split(", ")]
        if called.startswith("vmov") and operands[0]:
            held[rest.split(", ")[1]] = operands[0]
        elif called == instruction:
            assert operands[: len(sources)] == sources, line


def test_emulated_sets_use_only_the_hosts_instructions():
    code = "\n".join(lines("avx512bf16@avx2", "dot_bf16") + lines("avxvnni@avx2", "dot4"))
    assert "vdpbf16ps" not in code and "vpdpbusd" not in code and "%zmm" not in code and "vfmadd" in code


# Prints the assembly of one word of AMX's registers.
EMIT_GRID = EMIT.split("lanes, size")[0] + """
module = ir.Module()
function = ir.Function(module, ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * 5), "f")
isa = kind(ir.IRBuilder(function.append_basic_block()))
a, b, c, d, e = function.args
words = {
    "open_grid": lambda: isa.open_grid(64), "close_grid": isa.close_grid,
    "grid_codes": lambda: isa.grid_codes(a, 640, b, 576, c, d, e),
    "grid_pairs": lambda: isa.grid_pairs(a, b, 2, 2, c, d, e, d),
    "grid_rows": lambda: isa.grid_rows(a, b, 2, c, d, e, a),
}
words[word]()
isa.b.ret_void()
""" + EMIT.split("builder.ret_void()")[1]


@pytest.mark.parametrize(("word", "expected"), [
    ("open_grid", {"ldtilecfg": 1}),
    ("close_grid", {"tilerelease": 1}),
    ("grid_codes", {"tilezero": 4, "tileloadd": 8, "tdpbssd": 4, "tilestored": 4}),
    ("grid_pairs", {"tileloadd": 8, "tdpbf16ps": 4, "tilestored": 4}),
    ("grid_rows", {"tileloadd": 5, "tdpbf16ps": 2, "tilestored": 2, "prefetcht1": 32}),
])  # fmt: skip
def test_matrices_are_multiplied_by_amx(word, expected):
    code = run_python("-c", EMIT_GRID, "amx", word).splitlines()
    tiles = [line.split()[0] for line in code if line.startswith(("\ttile", "\ttdp", "\tldtile", "\tprefetch"))]
    assert {name: tiles.count(name) for name in tiles} == expected
    emulated = run_python("-c", EMIT_GRID, "amx@avx2", word)
    assert "tile" not in emulated and "tdp" not in emulated
