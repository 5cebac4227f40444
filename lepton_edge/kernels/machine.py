"""Which instruction sets there are, and which of them this CPU has.  Imports neither Numba nor a kernel."""

import os
from functools import lru_cache

from ..errors import MachineError
from .features import architecture, cpu_features, fast_bf16_pairs, grid_granted
from .simd.amx import AMX
from .simd.avx2 import AVX2
from .simd.avx512 import AVX512
from .simd.avx512bf16 import AVX512BF16
from .simd.avxvnni import AVXVNNI
from .simd.emulated import emulated
from .simd.i8mm import I8MM
from .simd.neon import Neon
from .simd.portable import Portable

__all__ = ["available", "choose", "instruction_set"]

# Every feature that the kernels' code may use must be listed: a missing one kills the process.
_V3 = ("avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512vnni")
# Best first.
_SETS: tuple[tuple[type[Portable], tuple[str, ...]], ...] = (
    (AMX, (*_V4, "avx512bf16", "amx-tile", "amx-int8", "amx-bf16")),
    (AVX512BF16, (*_V4, "avx512bf16")),
    (AVX512, _V4),
    (AVXVNNI, (*_V3, "avxvnni")),
    (AVX2, _V3),
    (I8MM, ("i8mm", "asimddp", "atomics")),
    (Neon, ("asimddp", "atomics")),
    (Portable, ()),
)


def instruction_set(name: str) -> type[Portable]:
    """The instruction set called `name`, whether or not this CPU has it.

    `NAME@HOST` is NAME with the instructions of HOST: the same tiles and the same steps, for tests on other machines.
    """
    name, _, host = name.partition("@")
    if host:
        return emulated(instruction_set(name), instruction_set(host))
    for kind, _ in _SETS:
        if kind.name == name:
            return kind
    raise MachineError(f"LEPTON_ISA: no instruction set {name!r}; known are {', '.join(k.name for k, _ in _SETS)}")


@lru_cache(maxsize=1)
def available() -> tuple[str, ...]:
    """Names of the instruction sets that this CPU has, best first."""
    here, features = architecture(), cpu_features()
    return tuple(
        kind.name for kind, needs in _SETS
        if kind.machine in (None, here) and features.issuperset(needs) and (not kind.grid or grid_granted())
    )  # fmt: skip


def fastest() -> str:
    """The best of `available`, but for one whose pairs of bf16 are slow."""
    slow = () if fast_bf16_pairs() else (AVX512BF16.name,)
    return next(name for name in available() if name not in slow)


def choose(requested: str | None = None) -> str:
    """The instruction set to run: `requested`, else LEPTON_ISA, else the fastest that this CPU has."""
    name = requested or os.environ.get("LEPTON_ISA") or fastest()
    instruction_set(name)
    if (name.partition("@")[2] or name) not in available():
        raise MachineError(f"LEPTON_ISA: this CPU lacks {name!r}; it has {', '.join(available())}")
    return name
