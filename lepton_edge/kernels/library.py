"""The CPU's compiled kernels: loaded from the cache of objects, without Numba.

The folder's name is a hash of the kernels' sources, the versions of Numba and LLVM, the instruction set, the system and
the architecture, so an edit or an upgrade never meets old code.
"""

import ctypes
import hashlib
import sys
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from threading import Lock

from .features import architecture
from .objects import Objects, cache_folder

__all__ = ["cache_folder", "callable_kernel", "kernels", "object_folder"]

HERE = Path(__file__).parent
_lock = Lock()
_loaded: dict[tuple[str, str], int] = {}
_engines: list[object] = []  # own the machine code; kept for the life of the process


@lru_cache(maxsize=8)
def object_folder(isa: str) -> Path:
    """The cache folder of this version's objects for one instruction set."""
    key = hashlib.sha256()
    for source in sorted(HERE.rglob("*.py")):
        if "cuda" not in source.relative_to(HERE).parts:
            key.update(source.read_bytes())
    key.update(f"{version('numba')} {version('llvmlite')} {isa} {sys.platform} {architecture()}".encode())
    return cache_folder() / f"{isa}-{key.hexdigest()[:20]}"


def kernels(ops: Iterable[str], isa: str, notify: Callable[[str], None] | None = None) -> dict[str, int]:
    """Addresses of the compiled kernels `ops` for an instruction set that this CPU has.

    Missing ones are compiled first, in processes of their own (about ten seconds for a model, once); `notify` is
    told so in a line of text.  Raises MachineError where compiling or the cache folder fails.
    """
    with _lock:
        ops = list(dict.fromkeys(ops))
        wanted = [op for op in ops if (isa, op) not in _loaded]
        if wanted:
            objects = Objects(object_folder(isa), ".o", (f"{__package__}.build", isa), isa)
            _load(objects.fetch(wanted, notify), isa)
        return {op: _loaded[isa, op] for op in ops}


def _load(codes: dict[str, bytes], isa: str) -> None:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(opt=3)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    for code in codes.values():
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    for op in codes:
        _loaded[isa, op] = engine.get_function_address(f"lepton_{op}")
    _engines.append(engine)


def callable_kernel(address: int) -> Callable[[int, int, int], None]:
    """A kernel as a Python function of three addresses or integers; the GIL is free while it runs."""
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
    function: Callable[[int, int, int], None] = prototype(address)
    return function
