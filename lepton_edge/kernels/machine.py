"""Which instruction sets there are, and which of them this CPU has.  Imports neither Numba nor a kernel."""

import os
from functools import lru_cache

from ..errors import MachineError
from .features import architecture, cpu_features
from .simd.avx2 import AVX2
from .simd.avx512 import AVX512
from .simd.i8mm import I8MM
from .simd.neon import Neon
from .simd.portable import Portable

__all__ = ["available", "choose", "instruction_set"]

# Best first.  Every feature that the kernels' code may use must be listed: a missing one kills the process.
_SETS: tuple[tuple[type[Portable], tuple[str, ...]], ...] = (
    (AVX512, ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd", "avx512vnni", "avx2", "fma", "f16c", "bmi2")),
    (AVX2, ("avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe")),
    (I8MM, ("i8mm", "asimddp", "atomics")),
    (Neon, ("asimddp", "atomics")),
    (Portable, ()),
)


def instruction_set(name: str) -> type[Portable]:
    """The instruction set called `name`, whether or not this CPU has it."""
    for kind, _ in _SETS:
        if kind.name == name:
            return kind
    raise MachineError(f"LEPTON_ISA: no instruction set {name!r}; known are {', '.join(k.name for k, _ in _SETS)}")


@lru_cache(maxsize=1)
def available() -> tuple[str, ...]:
    """Names of the instruction sets that this CPU has, best first."""
    here, features = architecture(), cpu_features()
    return tuple(kind.name for kind, needs in _SETS if kind.machine in (None, here) and features.issuperset(needs))


def choose(requested: str | None = None) -> str:
    """The instruction set to run: `requested`, else LEPTON_ISA, else the best that this CPU has."""
    name = requested or os.environ.get("LEPTON_ISA") or available()[0]
    instruction_set(name)
    if name not in available():
        raise MachineError(f"LEPTON_ISA: this CPU lacks {name!r}; it has {', '.join(available())}")
    return name
