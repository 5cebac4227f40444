"""What the CPU of this process can do: llvmlite knows it for x86, and hardly for ARM, where the system is asked."""

import ctypes
import sys
from typing import Any

__all__ = ["architecture", "cpu_features", "fast_bf16_pairs", "grid_granted"]

# By Linux's names (arch/arm64/include/uapi/asm/hwcap.h): (entry of the auxiliary vector, bit).
_LINUX = {"atomics": (16, 8), "asimddp": (16, 20), "i8mm": (26, 13)}
# Apple, "Determining instruction set characteristics": these names below hw.optional.arm.
_MACOS = {"atomics": "FEAT_LSE", "asimddp": "FEAT_DotProd", "i8mm": "FEAT_I8MM"}
# Microsoft, IsProcessorFeaturePresent (winnt.h): PF_ARM_V81_ATOMIC_…, PF_ARM_V82_DP_… and PF_ARM_V82_I8MM_…
_WINDOWS = {"atomics": 34, "asimddp": 43, "i8mm": 66}


def architecture() -> str:
    """What this process runs as, which an emulating system may hide: "x86_64", "aarch64", or LLVM's name of another."""
    import llvmlite.binding as llvm

    name = llvm.get_process_triple().partition("-")[0]
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def cpu_features() -> frozenset[str]:
    """LLVM's names of all features on x86_64, Linux's names of those that matter on aarch64; elsewhere none.

    A feature that the system does not vouch for is left out.
    """
    here = architecture()
    if here == "x86_64":
        import llvmlite.binding as llvm

        return frozenset(name for name, present in llvm.get_host_cpu_features().items() if present)
    if here != "aarch64":
        return frozenset()
    try:
        if sys.platform == "darwin":
            return _macos(ctypes.CDLL(None).sysctlbyname)
        if sys.platform == "win32":
            return _windows(ctypes.windll.kernel32.IsProcessorFeaturePresent)
        return _linux(ctypes.CDLL(None).getauxval)
    except (AttributeError, OSError):  # a system without such a function
        return frozenset()


def fast_bf16_pairs() -> bool:
    """Whether products of bf16 pairs are faster than widening them for products of floats, where there are both.

    AMD's CPUs take one of either a cycle; an Emerald Rapids two of floats, but one of pairs in two cycles.
    """
    import llvmlite.binding as llvm

    name: str = llvm.get_host_cpu_name()
    return name.startswith("znver")


def grid_granted() -> bool:
    """Ask Linux for AMX's registers, which a process must before it uses them; -> whether it has them now.

    It is refused where a thread's signal stack is too small to hold them (Linux, Documentation/arch/x86/xstate.rst).
    """
    if sys.platform != "linux":
        return False
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    try:
        return ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0
    except (AttributeError, OSError):
        return False


def _linux(getauxval: Any) -> frozenset[str]:
    getauxval.restype, getauxval.argtypes = ctypes.c_ulong, (ctypes.c_ulong,)
    return frozenset(name for name, (entry, bit) in _LINUX.items() if getauxval(entry) >> bit & 1)


def _macos(sysctlbyname: Any) -> frozenset[str]:
    def has(feature: str) -> bool:
        value, size = ctypes.c_int(0), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
        name = f"hw.optional.arm.{feature}".encode()
        return sysctlbyname(name, ctypes.byref(value), ctypes.byref(size), None, 0) == 0 and value.value == 1

    return frozenset(name for name, feature in _MACOS.items() if has(feature))


def _windows(present: Any) -> frozenset[str]:
    return frozenset(name for name, number in _WINDOWS.items() if present(number))
