"""How many threads are worth having on this machine: its physical performance cores, as far as we may use them.

Hyperthreads share the units that the kernels saturate, so a second thread on a core only disturbs the first; an
efficiency core has a fraction of those units.  Frequencies are not looked at: favoured cores and dense ones differ in
them, and all are worth having.
"""

import os
import struct
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

__all__ = ["default_threads", "linux_threads", "windows_cores"]

CPUS = "sys/devices/system/cpu"
CGROUPS = "sys/fs/cgroup"
RELATION_PROCESSOR_CORE = 0


def default_threads() -> int:
    """Physical performance cores that this process may use: by affinity mask, container quota and topology."""
    try:
        if sys.platform == "win32":
            return _windows_threads()
        if sys.platform == "darwin":
            return _mac_threads()
        return linux_threads(os.sched_getaffinity(0), Path("/"))
    except (OSError, ValueError, AttributeError, subprocess.SubprocessError):
        return os.cpu_count() or 1


def linux_threads(allowed: Iterable[int], root: Path) -> int:
    """The same for the CPUs `allowed` of a Linux whose /proc and /sys lie under `root`; at least 1."""
    cpus = _performance_cpus(set(allowed), root)
    cores = {_read(root / CPUS / f"cpu{i}/topology/thread_siblings_list") or str(i) for i in cpus}
    return max(1, min([len(cores), *(int(quota) for quota in _quotas(root))]))


def _performance_cpus(cpus: set[int], root: Path) -> set[int]:
    """Those of `cpus` that are on performance cores; all of them where they do not differ."""
    hybrid = cpus & _cpu_list(_read(root / "sys/devices/cpu_core/cpus"))  # there on Intel's hybrid chips only
    if hybrid:
        return hybrid
    capacities = {i: float(_read(root / CPUS / f"cpu{i}/cpu_capacity") or 1024) for i in cpus}
    most = max(capacities.values(), default=0.0)
    return {i for i, capacity in capacities.items() if capacity >= most / 2}  # ARM: a little core has a third


def _quotas(root: Path) -> Iterable[float]:
    """Cores that the CPU quotas of this process's control groups allow, those around them included."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            yield from _quotas_along(root / CGROUPS, path, ("cpu.max",))
        elif "cpu" in controllers.split(","):
            files = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            for mount in {controllers, "cpu"}:
                yield from _quotas_along(root / CGROUPS / mount, path, files)


def _quotas_along(mount: Path, path: str, files: tuple[str, ...]) -> Iterable[float]:
    """Quotas of the group at `path` and of all around it; in a container the mount is often the group itself."""
    group = PurePosixPath(path.lstrip("/"))
    for place in () if ".." in group.parts else (group, *group.parents):
        words = " ".join(_read(mount / place / file) for file in files).split()
        if len(words) == 2 and words[0] not in ("max", "-1"):
            yield float(words[0]) / float(words[1])


def _cpu_list(text: str) -> set[int]:
    """'0-3,8' as a set."""
    ranges = [part.split("-") for part in text.split(",") if part]
    return {i for bounds in ranges for i in range(int(bounds[0]), int(bounds[-1]) + 1)}


def _read(path: Path) -> str:
    """A file's text without the space around it; '' where it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _mac_threads() -> int:
    """Performance cores of Apple silicon; all cores of an Intel Mac, which has no levels."""
    command = ["sysctl", "-n", "hw.physicalcpu", "hw.perflevel0.physicalcpu"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=2, check=False).stdout.split()
    return max(1, int(found[-1])) if found else os.cpu_count() or 1


def _windows_threads() -> int:
    """What Windows says of its cores, and which of them this process may use."""
    import ctypes

    kernel32 = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined, unused-ignore]
    size = ctypes.c_ulong(0)
    kernel32.GetLogicalProcessorInformationEx(RELATION_PROCESSOR_CORE, None, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    if not kernel32.GetLogicalProcessorInformationEx(RELATION_PROCESSOR_CORE, buffer, ctypes.byref(size)):
        return os.cpu_count() or 1
    mine, system = ctypes.c_size_t(0), ctypes.c_size_t(0)
    kernel32.GetCurrentProcess.restype = ctypes.c_void_p
    process = ctypes.c_void_p(kernel32.GetCurrentProcess())
    kernel32.GetProcessAffinityMask(process, ctypes.byref(mine), ctypes.byref(system))
    return windows_cores(buffer.raw[: size.value], mine.value)


def windows_cores(records: bytes, affinity: int) -> int:
    """Cores of the highest efficiency class in SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX records; at least 1.

    affinity: mask of the processors of group 0 that may be used; 0, as a process in several groups has it: all.
    """
    classes, start = [], 0
    while start + 48 <= len(records):
        relation, size, _, kind, _, mask = struct.unpack_from("<IIBB22sQ", records, start)
        if relation == RELATION_PROCESSOR_CORE and (affinity == 0 or mask & affinity):
            classes.append(kind)
        start += max(size, 48)
    return max(1, classes.count(max(classes, default=0)))
