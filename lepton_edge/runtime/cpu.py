"""How many threads are worth having on this machine."""

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["default_threads"]


def default_threads() -> int:
    """Physical (performance) cores that this process may use: by affinity mask, container quota and topology."""
    return max(1, min(_allowed(), _quota(), _physical()))


def _allowed() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quota() -> int:
    """Cores that a container's CPU quota allows (cgroup v2), at least one."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, int(quota) // int(period))
    except (OSError, ValueError):
        return 1 << 16


def _physical() -> int:
    """Physical cores: hyperthreads share the units that the kernels saturate, so a second one only disturbs."""
    try:
        if sys.platform == "darwin":
            command = ["sysctl", "-n", "hw.perflevel0.physicalcpu"]
            return int(subprocess.run(command, capture_output=True, text=True, timeout=2, check=True).stdout)
        allowed = os.sched_getaffinity(0)
        siblings = {
            Path(f"/sys/devices/system/cpu/cpu{i}/topology/thread_siblings_list").read_text() for i in allowed
        }
        return max(1, len(siblings))
    except (OSError, ValueError, AttributeError, subprocess.SubprocessError):
        return 1 << 16
