"""Kernels compiled for ARM, on any machine: the instructions of the inner loops, and nothing that may not be there.

What they compute is tested by the other files of this folder, on an ARM machine or by tools/arm_under_qemu.py.
"""

import re
from pathlib import Path

import pytest
from processes import finish, run_python, start_python

from lepton_edge.kernels.build import ALLOWED
from lepton_edge.kernels.machine import instruction_set
from lepton_edge.kernels.objects import WORKERS, _cores, _shares
from lepton_edge.kernels.ops import OPS, PLAIN, PROBES, RECURRENT
from lepton_edge.kernels.simd.i8mm import I8MM

KERNELS = (*OPS, "walk", *PROBES)
# Half the time goes into these, and i8mm's are neon's, instruction by instruction: see `test_i8mm_differs_from_neon`.
PLAIN_PRODUCTS = {f"{op}_{format}" for op in ("matmul", *RECURRENT) for format in PLAIN}
SETS = {"neon": KERNELS, "i8mm": tuple(op for op in KERNELS if op not in PLAIN_PRODUCTS)}
PROGRAM = Path(__file__).parent / "arm_program.py"
DOTS = {"sdot", "usdot", "smmla", "usmmla"}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compiled():
    """No kernel runs here: none is compiled for this machine."""


@pytest.fixture(scope="module", params=SETS)
def assembly(request, tmp_path_factory):
    """(instruction set, folder with the assembly and the object of its kernels)."""
    folder, shares = tmp_path_factory.mktemp(request.param), _shares(list(SETS[request.param]), min(WORKERS, _cores()))
    for process in [start_python(PROGRAM, request.param, folder, *share) for share in shares]:
        finish(process, timeout=900)
    return instruction_set(request.param), folder


def instructions(path):
    """Lines of assembly: labels and instructions, without directives and comments."""
    lines = (line.split("//")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line.endswith(":") or (line and not line.startswith("."))]


def inner_loops(lines):
    """The mnemonics of every innermost loop: from a label to a branch back to it, with no such loop inside."""
    labels = {line[:-1]: i for i, line in enumerate(lines) if line.endswith(":")}
    spans = []
    for i, line in enumerate(lines):
        target = labels.get(line.split()[-1])
        if re.match(r"(b|b\.\w+|cbn?z|tbn?z)\s", line) and target is not None and target < i:
            spans.append((target, i))
    inner = [s for s in spans if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
    return [[line.split()[0] for line in lines[a : b + 1] if not line.endswith(":")] for a, b in inner]


def test_inner_loops():
    lines = ["outer:", "mov x0, x1", "inner:", "sdot v0.4s, v1.16b, v2.16b", "b.hi inner", "cbnz x3, outer", "ret"]
    assert inner_loops(lines) == [["sdot", "b.hi"]]


def test_i8mm_differs_from_neon():
    """In what makes products of packed weights, and where activations lie that are quantized for them."""
    words = {name for name in vars(I8MM) if not name.startswith("__")}
    assert words == {"name", "features", "tiles", "q8_bias_shift", "codes", "dot", "matrix", "products"}
    assert I8MM.__base__ is instruction_set("neon")


def test_every_kernel_is_an_aarch64_object(assembly):
    isa, folder = assembly
    assert {path.stem for path in folder.glob("*.o")} == set(SETS[isa.name])
    for path in folder.glob("*.o"):
        code = path.read_bytes()
        assert code[:6] == b"\x7fELF\x02\x01" and int.from_bytes(code[18:20], "little") == 183, path.name  # EM_AARCH64


def test_nothing_is_called_but_what_is_allowed(assembly):
    for path in assembly[1].glob("*.s"):
        lines = instructions(path)
        own = {line[:-1] for line in lines if line.endswith(":")}
        called = {line.split()[1] for line in lines if re.match(r"bl?\s+[^.\s]", line)}
        assert called - own <= ALLOWED, path.name


def test_instructions_that_a_process_may_not_use_are_not_there(assembly):
    """The cycle counter traps on many systems; the virtual timer, which `clock` reads, does not."""
    systems = {line.split()[-1].upper() for path in assembly[1].glob("*.s") for line in instructions(path)
               if line.split()[0] in ("mrs", "msr")}  # fmt: skip
    assert systems == {"CNTVCT_EL0"}


@pytest.mark.parametrize("op", ["matmul_q4", "matmul_q8", "matmul_mxfp4"])
def test_products_are_dot_product_instructions(assembly, op):
    """Each register tile has one loop over groups, which does all of 32 columns by 16 rows by its tokens at once."""
    isa, folder = assembly
    loops = [[name for name in loop if name in DOTS] for loop in inner_loops(instructions(folder / f"{op}.s"))]
    found = {(frozenset(names), len(names)) for names in loops if names}
    expected = set()
    for tokens, blocks in isa.tiles:
        matrix = isa.name == "i8mm" and tokens > 1
        name = "sdot" if isa.name == "neon" else "usmmla" if matrix else "usdot"
        expected.add((frozenset({name}), tokens * blocks * 32 * 16 // (32 if matrix else 16)))
    assert found == expected
    for loop in inner_loops(instructions(folder / f"{op}.s")):
        assert not DOTS & set(loop) or not {"mul", "mla", "smull"} & set(loop)
        assert not DOTS & set(loop) or ("tbl" in loop) == (op == "matmul_mxfp4")


def test_the_probe_of_the_peak_is_dot_products(assembly):
    """Each chain's group product: eight registers of 16 rows by four columns, four rows an instruction."""
    isa, folder = assembly
    (loop,) = inner_loops(instructions(folder / "probe_dot.s"))
    assert loop.count("sdot" if isa.name == "neon" else "usdot") == isa.chains * 8 * 4
    assert not {"mul", "mla", "smull"} & set(loop)


@pytest.mark.parametrize("op", ["attention_f16", "embed_f16", "rope_f16"])
def test_half_floats_are_converted_by_instructions(assembly, op):
    names = {line.split()[0] for line in instructions(assembly[1] / f"{op}.s")}
    assert {"fcvtn"} <= names if op == "rope_f16" else {"fcvtl"} <= names


def test_generic_kernels_use_no_optional_instruction(tmp_path):
    run_python(PROGRAM, "generic", tmp_path, "walk", "matmul_q4")
    names = {line.split()[0] for path in tmp_path.glob("*.s") for line in instructions(path)}
    assert not names & (DOTS | {"ldaddal", "ldadd"}) and "ldaxr" in names
