"""What this machine's CPU calls itself."""

import platform
import subprocess
import sys
from pathlib import Path


def cpu_name() -> str:
    """The CPU's name, for people; the architecture ('aarch64') where the system tells no more."""
    if sys.platform == "darwin":
        found = _answer(["sysctl", "-n", "machdep.cpu.brand_string"])
    elif sys.platform == "win32":
        found = platform.processor()
    else:
        found = _cpuinfo("model name") or _cpuinfo("Model") or _cpuinfo("Hardware")
    return found or platform.machine()


def _cpuinfo(key: str) -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _answer(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
