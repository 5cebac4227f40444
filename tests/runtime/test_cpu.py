"""The number of threads, on machines made of files."""

import struct

import pytest

from lepton_edge.runtime.cpu import default_threads, linux_threads, windows_cores


@pytest.fixture
def machine(tmp_path):
    """Makes a machine: siblings and capacities by CPU, and files by path."""

    def make(siblings, capacities=None, **files):
        for i, text in enumerate(siblings):
            files[f"sys/devices/system/cpu/cpu{i}/topology/thread_siblings_list"] = text
        for i, capacity in enumerate(capacities or []):
            files[f"sys/devices/system/cpu/cpu{i}/cpu_capacity"] = str(capacity)
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
        return tmp_path

    return make


FOUR = ["0", "1", "2", "3"]


def test_this_machine():
    assert default_threads() >= 1


def test_hyperthreads_count_once(machine):
    root = machine(["0,4", "1,5", "2,6", "3,7", "0,4", "1,5", "2,6", "3,7"])
    assert linux_threads(range(8), root) == 4
    assert linux_threads([0, 4], root) == 1 and linux_threads([0, 4, 5], root) == 2, "what the mask leaves"


def test_nothing_is_known(tmp_path):
    """Neither topology nor groups: every allowed CPU is a core."""
    assert linux_threads(range(6), tmp_path) == 6 and linux_threads([], tmp_path) == 1


def test_hybrid_intel(machine):
    """Two performance cores with hyperthreads, four efficiency cores."""
    siblings = ["0-1", "0-1", "2-3", "2-3", "4", "5", "6", "7"]
    root = machine(siblings, **{"sys/devices/cpu_core/cpus": "0-3", "sys/devices/cpu_atom/cpus": "4-7"})
    assert linux_threads(range(8), root) == 2
    assert linux_threads([0, 1, 6], root) == 1
    assert linux_threads([4, 5, 6], root) == 3, "only efficiency cores are allowed: those"


def test_big_little(machine):
    """One prime core, three big, four little: the little ones hold the others up."""
    root = machine([*FOUR, "4", "5", "6", "7"], [250, 250, 250, 250, 780, 780, 780, 1024])
    assert linux_threads(range(8), root) == 4
    assert linux_threads(range(4), root) == 4


@pytest.mark.parametrize("text,threads", [("max 100000", 4), ("200000 100000", 2), ("250000 100000", 2),
                                          ("50000 100000", 1), ("900000 100000", 4), ("", 4)])  # fmt: skip
def test_quota_of_version_2(machine, text, threads):
    root = machine(FOUR, **{"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": text})
    assert linux_threads(range(4), root) == threads


def test_a_group_inside_a_group(machine):
    """The tightest counts, wherever it is; the root of the real machine has no file."""
    place = "sys/fs/cgroup/user.slice/app.scope"
    root = machine(FOUR, **{"proc/self/cgroup": "0::/user.slice/app.scope", f"{place}/cpu.max": "max 100000",
                            "sys/fs/cgroup/user.slice/cpu.max": "300000 100000"})  # fmt: skip
    assert linux_threads(range(4), root) == 3
    (root / place / "cpu.max").write_text("100000 50000")
    assert linux_threads(range(4), root) == 2
    (root / "proc/self/cgroup").write_text("0::/../../other\n")
    assert linux_threads(range(4), root) == 4, "a path out of our view"


@pytest.mark.parametrize("mount", ["cpu,cpuacct", "cpu"])
@pytest.mark.parametrize("place", ["docker/abc/", ""])
def test_quota_of_version_1(machine, mount, place):
    """A container may see its group at the path that /proc names, or as the root of the mount."""
    folder = f"sys/fs/cgroup/{mount}/{place}"
    root = machine(FOUR, **{"proc/self/cgroup": "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/docker/abc",
                            f"{folder}cpu.cfs_quota_us": "300000", f"{folder}cpu.cfs_period_us": "100000"})  # fmt: skip
    assert linux_threads(range(4), root) == 3
    (root / f"{folder}cpu.cfs_quota_us").write_text("-1\n")
    assert linux_threads(range(4), root) == 4


def core(kind: int, mask: int, size: int = 48) -> bytes:
    """A SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX of one core: its efficiency class and its processors."""
    return struct.pack("<IIBB20sHQH6s", 0, size, 1, kind, b"", 1, mask, 0, b"").ljust(size, b"\0")


def test_windows():
    """Two performance cores with hyperthreads, three efficiency cores."""
    records = core(1, 0b11) + core(1, 0b1100, 64) + core(0, 1 << 4) + core(0, 1 << 5) + core(0, 1 << 6)
    assert windows_cores(records, 0) == 2
    assert windows_cores(records, 0b1100) == 1
    assert windows_cores(records, 0b1110000) == 3
    assert windows_cores(core(0, 1) * 6, 0) == 6 and windows_cores(b"", 0) == 1
