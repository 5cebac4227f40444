"""Compile CUDA kernels to machine code for a GPU, which need not be there: the one module that imports Numba.

    python -m lepton_edge.kernels.cuda.build ARCH FOLDER OP …

ARCH is a compute capability such as 90.  Each op becomes `FOLDER/OP.cubin` with one kernel `lepton_OP`.
"""

import importlib
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..build import write

__all__ = ["MODULES", "factories", "to_ptx"]

MODULES = (
    "elementwise", "embed", "matmul_packed", "matmul_plain", "rope", "attention", "attention_fast", "summary", "probe",
)  # fmt: skip


def factories() -> dict[str, Any]:
    """Every kernel's factory, by name."""
    found: dict[str, Any] = {}
    for name in MODULES:
        found.update(importlib.import_module(f"{__package__}.{name}").KERNELS)
    return found


def to_ptx(op: str, kernel: Any, arch: str) -> str:
    """The PTX of a kernel, which is called `lepton_OP` there."""
    from numba import cuda
    from numba.cuda import dispatcher, types

    from . import ptx

    # Numba asks the device that is there for its kind, even where it compiles for a given one.
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=(int(arch) // 10, int(arch) % 10))
    ptx.ARCH = int(arch)
    signature = types.void(types.int64, types.int64, types.int64)
    code, _ = cuda.compile_ptx(kernel, signature, cc=(int(arch) // 10, int(arch) % 10), device=False)
    name = re.search(r"\.visible \.entry (\w+)\(", code)
    if name is None:
        raise RuntimeError(f"kernel {op}: its PTX has no entry")
    text: str = code.replace(name[1], f"lepton_{op}")
    return text


def link(ptx: str, arch: str) -> bytes:
    """The machine code of some PTX."""
    from cuda.bindings import nvjitlink

    handle = nvjitlink.create(1, [f"-arch=sm_{arch}"])
    try:
        code = ptx.encode()
        nvjitlink.add_data(handle, nvjitlink.InputType.PTX, code, len(code), "kernel.ptx")
        nvjitlink.complete(handle)
        cubin = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, cubin)
        return bytes(cubin)
    finally:
        nvjitlink.destroy(handle)


def main(arch: str, folder: str, *ops: str) -> None:
    known = factories()
    for op in ops:
        write(Path(folder) / f"{op}.cubin", link(to_ptx(op, known[op](), arch), arch))


if __name__ == "__main__":
    main(*sys.argv[1:])
