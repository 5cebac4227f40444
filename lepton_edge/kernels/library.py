"""Compiled kernels: found in a per-user cache folder, compiled once where missing, loaded without Numba.

The folder's name is a hash of the kernels' sources, the versions of Numba and LLVM, the instruction set, the system and
the architecture, so an edit or an upgrade never meets old code.  Objects are written whole or not at all; of several
processes that miss the same ones, one compiles and the others wait for it.
"""

import contextlib
import ctypes
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from threading import Lock

from ..errors import MachineError
from .features import architecture

try:
    import fcntl
except ImportError:  # as on Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["cache_folder", "kernels"]

HERE = Path(__file__).parent
WORKERS = 4  # processes that compile: the slowest kernel alone takes a quarter of a model's compile time
DIGEST = 32  # bytes of digest at the end of each object
_lock = Lock()
_loaded: dict[tuple[str, str], int] = {}
_engines: list[object] = []  # own the machine code; kept for the life of the process


def cache_folder() -> Path:
    """Where objects are kept: LEPTON_CACHE, else the platform's place for a user's caches."""
    if chosen := os.environ.get("LEPTON_CACHE"):
        return Path(chosen)
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "lepton-edge"


@lru_cache(maxsize=8)
def object_folder(isa: str) -> Path:
    """The cache folder of this version's objects for one instruction set."""
    key = hashlib.sha256()
    for source in sorted(HERE.rglob("*.py")):
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
            folder = object_folder(isa)
            missing = [op for op in wanted if _read(folder, op) is None]
            if missing:
                if notify:
                    notify(f"compiling {len(missing)} kernels for {isa} (once, into {folder})")
                _make(folder)
                with _alone(folder):
                    _compile([op for op in missing if _read(folder, op) is None], isa, folder)
            _load(wanted, isa, folder)
        return {op: _loaded[isa, op] for op in ops}


def _read(folder: Path, op: str) -> bytes | None:
    """A kernel's object code; None where it is missing or not as it was written (it must never reach the linker)."""
    try:
        data = (folder / f"{op}.o").read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        hint = "set LEPTON_CACHE to another folder"
        raise MachineError(f"{folder}: cannot read the kernel cache ({error}); {hint}") from None
    code = data[:-DIGEST]
    return code if digest(op, code) == data[-DIGEST:] else None


def digest(op: str, code: bytes) -> bytes:
    """SHA-256 of a kernel's object code and its name: damaged code, or another kernel's, would crash the process."""
    return hashlib.sha256(op.encode() + code).digest()


def _make(folder: Path) -> None:
    """Make a cache folder, where there is none."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        hint = "set LEPTON_CACHE to a writable folder"
        raise MachineError(f"{folder}: cannot make the kernel cache ({error}); {hint}") from None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While no other process compiles for the same folder; where a system cannot lock it, several do the same work."""
    with contextlib.ExitStack() as stack:
        if fcntl is not None:
            with contextlib.suppress(OSError):
                handle = os.open(folder, os.O_RDONLY)
                stack.callback(os.close, handle)
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _compile(ops: list[str], isa: str, folder: Path) -> None:
    """Compile ops in a process for each core, at most `WORKERS`."""
    root = str(HERE.parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
    command = [sys.executable, "-m", f"{__package__}.build", isa, str(folder)]
    no, pipe = subprocess.DEVNULL, subprocess.PIPE
    workers = [
        subprocess.Popen([*command, *share], env=environment, stdin=no, stdout=no, stderr=pipe, text=True)
        for share in _shares(ops, min(WORKERS, _cores()))
    ]
    try:
        reports = [worker.communicate()[1] for worker in workers]
    except BaseException:
        for worker in workers:
            worker.kill()
            worker.wait()
        raise
    for worker, report in zip(workers, reports, strict=True):
        if worker.returncode:
            last = report.strip().splitlines()[-1] if report.strip() else f"exit code {worker.returncode}"
            raise MachineError(f"compiling the kernels for {isa} failed: {last}; run `lepton doctor`")


def _cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _shares(ops: list[str], count: int) -> list[list[str]]:
    """The ops in `count` shares that take about as long: the slowest first, each to the share that has least to do."""
    shares: list[tuple[int, list[str]]] = [(0, [])] * count
    for op in sorted(ops, key=_compile_time, reverse=True):
        shares.sort(key=lambda share: share[0])
        shares[0] = (shares[0][0] + _compile_time(op), [*shares[0][1], op])
    return [share for _, share in shares if share]


def _compile_time(op: str) -> int:
    """Roughly, in seconds."""
    return {"attention": 16, "gated": 10, "experts": 9, "matmul": 6, "rope": 4}.get(op.partition("_")[0], 1)


def _load(ops: list[str], isa: str, folder: Path) -> None:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(opt=3)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    for op in ops:
        code = _read(folder, op)
        if code is None:
            raise MachineError(f"{folder / op}.o: is damaged, although it was just written; check the disk")
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    for op in ops:
        _loaded[isa, op] = engine.get_function_address(f"lepton_{op}")
    _engines.append(engine)


def callable_kernel(address: int) -> Callable[[int, int, int], None]:
    """A kernel as a Python function of three addresses or integers; the GIL is free while it runs."""
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
    function: Callable[[int, int, int], None] = prototype(address)
    return function
