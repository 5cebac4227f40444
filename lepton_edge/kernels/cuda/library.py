"""The CUDA kernels' machine code, from the same cache as the CPU's: compiled once for each kind of GPU."""

import hashlib
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from ..objects import Objects, cache_folder

__all__ = ["cubins"]

HERE = Path(__file__).parent


def cubins(ops: Iterable[str], arch: str, notify: Callable[[str], None] | None = None) -> dict[str, bytes]:
    """The machine code of kernels for GPUs of a compute capability such as '90'; missing ones are compiled first.

    Raises MachineError where compiling or the cache folder fails.
    """
    build = (f"{__package__}.build", arch)
    return Objects(_folder(arch), ".cubin", build, f"CUDA sm_{arch}").fetch(list(dict.fromkeys(ops)), notify)


@lru_cache(maxsize=8)
def _folder(arch: str) -> Path:
    key = hashlib.sha256()
    for source in (*sorted(HERE.glob("*.py")), HERE.parent / "layout.py", HERE.parent / "ops.py"):
        key.update(source.read_bytes())
    key.update(f"{version('numba-cuda')} {arch}".encode())
    return cache_folder() / f"cuda{arch}-{key.hexdigest()[:20]}"
