"""Machine code of kernels in a per-user cache folder: compiled once where missing, in processes of their own.

Objects are written whole or not at all, with a digest; of several processes that miss the same ones, one compiles and
the others wait for it.
"""

import contextlib
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import MachineError

try:
    import fcntl
except ImportError:  # as on Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["Objects", "cache_folder", "digest"]

ROOT = Path(__file__).parents[2]
WORKERS = 4  # processes that compile: the slowest kernel alone takes a quarter of a model's compile time
DIGEST = 32  # bytes of digest at the end of each object


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


@dataclass(frozen=True)
class Objects:
    """The objects in `folder`, files OP + suffix; `python -m *build FOLDER OP …` makes them.  target: for messages."""

    folder: Path
    suffix: str
    build: tuple[str, ...]
    target: str

    def fetch(self, ops: list[str], notify: Callable[[str], None] | None) -> dict[str, bytes]:
        """The code of ops.  Missing ones are compiled first; `notify` is told so in a line of text.

        Raises MachineError where compiling or the folder fails.
        """
        missing = [op for op in ops if self._read(op) is None]
        if missing:
            if notify:
                notify(f"compiling {len(missing)} kernels for {self.target} (once, into {self.folder})")
            _make(self.folder)
            with _alone(self.folder):
                self._compile([op for op in missing if self._read(op) is None])
        found = {op: self._read(op) for op in ops}
        if None in found.values():
            damaged = self.folder / f"{next(op for op, code in found.items() if code is None)}{self.suffix}"
            raise MachineError(f"{damaged}: is damaged, although it was just written; check the disk")
        return {op: code for op, code in found.items() if code is not None}

    def _read(self, op: str) -> bytes | None:
        """An object's code; None where it is missing or not as it was written (it must never reach the linker)."""
        try:
            data = (self.folder / f"{op}{self.suffix}").read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            hint = "set LEPTON_CACHE to another folder"
            raise MachineError(f"{self.folder}: cannot read the kernel cache ({error}); {hint}") from None
        code = data[:-DIGEST]
        return code if digest(op, code) == data[-DIGEST:] else None

    def _compile(self, ops: list[str]) -> None:
        """Compile ops in a process for each core, at most `WORKERS`."""
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        command = [sys.executable, "-m", *self.build, str(self.folder)]
        no, pipe = subprocess.DEVNULL, subprocess.PIPE
        environment = {**os.environ, "PYTHONPATH": path}
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
                raise MachineError(f"compiling the kernels for {self.target} failed: {last}; run `lepton doctor`")


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
