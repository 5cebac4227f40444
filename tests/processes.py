"""Python processes of their own, for tests of what a process imports, keeps, or survives."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def environment(**changes: str) -> dict[str, str]:
    """The environment with which a new process finds the package and the tests' helpers, wherever it starts."""
    paths = (str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", ""))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **changes}


def start_python(*arguments: str | Path, **changes: str) -> subprocess.Popen:
    """A running process; `changes` are environment variables."""
    return subprocess.Popen([sys.executable, *map(str, arguments)], env=environment(**changes), text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def finish(process: subprocess.Popen, timeout: float = 300) -> str:
    """What the process printed; fails, showing its errors, unless it ended well."""
    try:
        out, errors = process.communicate(timeout=timeout)
    finally:
        process.kill()  # does nothing to a process that has ended
    assert process.returncode == 0, f"exit code {process.returncode}: {errors[-3000:]}"
    return out


def resident() -> int:
    """Bytes of this process that lie in memory; 0 where the system does not say."""
    if not sys.platform.startswith("linux"):
        return 0
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run_python(*arguments: str | Path, **changes: str) -> str:
    return finish(start_python(*arguments, **changes))
