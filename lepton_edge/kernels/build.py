"""Compile kernels to object files: the one module that imports Numba, run as a process of its own.

    python -m lepton_edge.kernels.build ISA FOLDER OP …

Each op becomes one object `FOLDER/OP.o` with one C function `lepton_OP(row, context, thread)`; it allocates nothing,
raises nothing, and needs no symbol but those of `ALLOWED`.  An instruction set of another architecture is compiled all
the same: to ELF objects for Linux, which `tools/arm_under_qemu.py` runs.
"""

import importlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from .objects import digest

ALLOWED = {"memset", "memcpy", "memmove"}
MODULES = (
    "matmul_packed", "matmul_plain", "experts", "embed", "elementwise", "rope", "attention", "recurrent", "mamba",
    "rwkv", "rnn", "summary", "walk", "probe",
)  # fmt: skip


def prepare(isa: str, machine: str | None = None) -> None:
    """Choose the instruction set for this process; must come before Numba is imported.

    `machine`: the architecture to compile for; without it the instruction set's own, or this one.
    """
    from .features import architecture
    from .machine import instruction_set

    kind = instruction_set(isa)
    machine = machine or kind.machine or architecture()
    if machine != architecture():
        compile_for(f"{machine}-unknown-linux-gnu")
    os.environ["LEPTON_BUILD_ISA"] = isa
    os.environ["NUMBA_CPU_NAME"] = kind.cpu
    os.environ["NUMBA_CPU_FEATURES"] = kind.features
    # Kernels say which registers they use: vectorizers and -O3 only add compile time (a third) and code.
    os.environ |= {"NUMBA_OPT": "2", "NUMBA_LOOP_VECTORIZE": "0", "NUMBA_SLP_VECTORIZE": "0"}


def compile_for(triple: str) -> None:
    """Make Numba compile for another machine.

    It takes target, data layout and costs from the triple of the process; what it compiles is never called here.
    """
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    llvm.get_process_triple = lambda: triple


def factories() -> dict[str, Any]:
    """Every op's kernel factory, by name."""
    found: dict[str, Any] = {}
    for name in MODULES:
        found.update(importlib.import_module(f"{__package__}.{name}").KERNELS)
    return found


def compile_kernel(name: str, kernel: Any) -> bytes:
    """The object code of one kernel."""
    module, machine = link(name, kernel)
    code: bytes = machine.emit_object(module)
    return code


def link(name: str, kernel: Any) -> tuple[Any, Any]:
    """One kernel with all that it calls, as an LLVM module, and the target machine that makes code of it."""
    import llvmlite.binding as llvm
    from numba import njit, types

    signature = types.void(types.int64, types.int64, types.int64)
    options: Any = dict(error_model="numpy", nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
    compiled: Any = njit(signature, **options)(kernel.py_func).overloads[signature.args]
    inner, outer = compiled.fndesc.llvm_func_name, f"lepton_{name}"
    # Numba's functions take two more arguments, where to put a result and an error; here both go nowhere.
    wrapper = f"""
define void @{outer}(i64 %row, i64 %context, i64 %thread) {{
  %result = alloca ptr
  %error = alloca ptr
  %status = call i32 @"{inner}"(ptr %result, ptr %error, i64 %row, i64 %context, i64 %thread)
  ret void
}}
"""
    module = llvm.parse_assembly(compiled.library.get_llvm_str() + wrapper)
    for function in module.functions:
        if not function.is_declaration and function.name != outer:
            function.linkage = "internal"
    machine = compiled.library.codegen._tm
    strip(module, machine)
    unknown = [f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")]
    if set(unknown) - ALLOWED:
        raise RuntimeError(f"kernel {name} needs symbols that are not there: {unknown}")
    return module, machine


def strip(module: Any, machine: Any) -> None:
    """Inline what is called once and drop what is never called."""
    import llvmlite.binding as llvm

    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=1))
    passes = llvm.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(module, builder)


def write(path: Path, code: bytes) -> None:
    """Code and its digest, whole or not at all, whoever else writes the same file."""
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(code + digest(path.stem, code))
    os.replace(temporary, path)


def main(isa: str, folder: str, *ops: str, machine: str | None = None) -> None:
    prepare(isa, machine)
    known = factories()
    for op in ops:
        write(Path(folder) / f"{op}.o", compile_kernel(op, known[op]()))


if __name__ == "__main__":
    main(*sys.argv[1:])
