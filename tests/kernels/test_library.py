"""The cache of compiled kernels: made once, shared, never trusted blindly; and the choice of instruction set."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from kernels.harness import ISAS
from processes import finish, run_python, start_python

from lepton_edge.errors import MachineError
from lepton_edge.kernels import library, machine
from lepton_edge.kernels.machine import available, choose, instruction_set
from lepton_edge.kernels.objects import _compile_time, _shares

SETS = ("amx", "avx512bf16", "avx512", "avxvnni", "avx2", "i8mm", "neon", "generic")

# Loads one small kernel and runs it, so that wrong code would show.
ADDS = """
import sys
from kernels.harness import *
from lepton_edge.errors import MachineError
told = []
try:
    kernels(["gather", "walk"], ISAS[0], told.append)
except MachineError as error:
    print(error)
    sys.exit()
rig = Rig(ISAS[0], 3, wanted=(2, 0))
x, y = rig.memory.padded(np.arange(96, dtype=np.float32).reshape(3, 32)), rig.memory.padded(np.zeros((3, 32)))
rig.row("gather", count=1, x=x, ldx=32, y=y, ldy=32, n=32).run()
assert np.array_equal(y[:2], x[[2, 0]])
print("numba" in sys.modules, *told)
"""


def use_kernels(cache: Path) -> str:
    return run_python("-c", ADDS, LEPTON_CACHE=str(cache)).strip()


def objects(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/*.o"))


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Path:
    """A cache that one process has filled; do not change it."""
    cache = tmp_path_factory.mktemp("cache") / "deep" / "er"
    said = use_kernels(cache)
    assert said.startswith(f"False compiling 2 kernels for {ISAS[0]} (once, into {cache}")
    assert [path.name for path in objects(cache)] == ["gather.o", "walk.o"]
    return cache


@pytest.fixture
def copied(filled, tmp_path) -> Path:
    for path in objects(filled):
        target = tmp_path / path.relative_to(filled)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    return tmp_path


def test_the_second_process_compiles_nothing_and_never_imports_numba(copied):
    before = {path: path.stat().st_mtime_ns for path in objects(copied)}
    assert use_kernels(copied) == "False"
    assert {path: path.stat().st_mtime_ns for path in objects(copied)} == before


@pytest.mark.parametrize("damage", ["empty", "cut", "one bit", "another kernel", "text"])
def test_a_damaged_object_is_compiled_anew(copied, damage):
    gather, walk = objects(copied)
    good = gather.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 3] ^= 1
    bad = {"empty": b"", "cut": good[: len(good) // 2], "one bit": bytes(flipped), "text": b"no code" * 500,
           "another kernel": walk.read_bytes()}[damage]  # fmt: skip
    gather.write_bytes(bad)
    said = use_kernels(copied)
    assert said.startswith("False compiling 1 kernels") and gather.read_bytes() != bad
    assert use_kernels(copied) == "False"


def test_a_missing_object_is_compiled_alone(copied):
    objects(copied)[1].unlink()
    assert use_kernels(copied).startswith("False compiling 1 kernels")
    assert use_kernels(copied) == "False"


def test_a_cache_that_cannot_be_made(tmp_path):
    file = tmp_path / "file"
    file.write_text("in the way")
    said = use_kernels(file / "cache")
    assert str(file) in said and "kernel cache" in said and "set LEPTON_CACHE" in said and "\n" not in said


@pytest.mark.skipif(sys.platform == "win32" or not hasattr(os, "geteuid") or os.geteuid() == 0,
                    reason="root may write anywhere")  # fmt: skip
def test_a_cache_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    said = use_kernels(tmp_path / "cache")
    assert str(tmp_path) in said and "set LEPTON_CACHE" in said


def test_processes_that_compile_at_once(tmp_path):
    workers = [start_python("-c", ADDS, LEPTON_CACHE=str(tmp_path)) for _ in range(3)]
    assert [finish(worker).split()[0] for worker in workers] == ["False"] * 3
    assert [path.name for path in objects(tmp_path)] == ["gather.o", "walk.o"]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".o"], "left something behind"
    assert use_kernels(tmp_path) == "False"


@pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be locked there")
def test_a_process_waits_for_one_that_compiles_the_same(filled, tmp_path):
    import fcntl

    folder = tmp_path / objects(filled)[0].parent.name
    folder.mkdir()
    handle = os.open(folder, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    worker = start_python("-c", ADDS, LEPTON_CACHE=str(tmp_path))
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(timeout=2)
    for path in objects(filled):
        (folder / path.name).write_bytes(path.read_bytes())
    written = {path: path.stat().st_mtime_ns for path in objects(tmp_path)}
    os.close(handle)
    assert finish(worker).startswith("False compiling 2 kernels")
    assert {path: path.stat().st_mtime_ns for path in objects(tmp_path)} == written


@pytest.mark.parametrize("count", [1, 2, 4])
def test_compiling_is_shared_out(count):
    ops = ["walk", "attention_f16", "matmul_q4", "gated_q4", "rope_f16", "gather"]
    shares = _shares(ops, count)
    assert len(shares) == count and sorted(op for share in shares for op in share) == sorted(ops)
    loads = [sum(map(_compile_time, share)) for share in shares]
    assert max(loads) <= max(_compile_time("attention_f16"), -(-sum(loads) // count) + 1)


def test_threads_that_load_at_once():
    """Both get the same addresses."""
    found = []
    workers = [threading.Thread(target=lambda: found.append(library.kernels(["quantize"], ISAS[-1]))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 4 and all(f == found[0] for f in found) and found[0]["quantize"] > 0


def test_kernels_may_be_named_by_any_iterable():
    assert library.kernels(iter(["walk", "gather", "walk"]), ISAS[0]).keys() == {"walk", "gather"}


def test_a_failing_compiler_is_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "numba.py").write_text("raise RuntimeError('no compiler today')")
    monkeypatch.setattr(library, "object_folder", lambda isa: tmp_path / "objects")
    monkeypatch.setattr(library, "_loaded", {})
    with pytest.raises(MachineError, match=r"compiling the kernels for \w+ failed: .*no compiler today.*lepton doctor"):
        library.kernels(["gather"], ISAS[0])


def test_the_folder_depends_on_sources_and_instruction_set(tmp_path, monkeypatch):
    folder = library.object_folder.__wrapped__
    names = {folder(isa).name for isa in ISAS}
    assert len(names) == len(ISAS) and all(folder(isa).name.startswith(f"{isa}-") for isa in ISAS)
    for source in library.HERE.rglob("*.py"):
        copy = tmp_path / source.relative_to(library.HERE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(source.read_bytes())
    monkeypatch.setattr(library, "HERE", tmp_path)
    same = folder(ISAS[0]).name
    assert same in names
    with open(tmp_path / "simd" / "words.py", "a") as file:
        file.write("\n")
    assert folder(ISAS[0]).name not in names


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("LEPTON_CACHE", str(tmp_path))
    assert library.cache_folder() == tmp_path
    monkeypatch.delenv("LEPTON_CACHE")
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert library.cache_folder() == tmp_path / "lepton-edge"
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert library.cache_folder() == tmp_path / ".cache" / "lepton-edge"


# -- the choice -----------------------------------------------------------------------------------------------------


def test_generic_is_everywhere_and_the_best_comes_first():
    assert available()[-1] == "generic"
    assert list(available()) == [isa for isa in SETS if isa in available()]


def test_choose(monkeypatch):
    monkeypatch.delenv("LEPTON_ISA", raising=False)
    assert choose() in available()[:2] and choose("generic") == "generic"
    monkeypatch.setenv("LEPTON_ISA", "generic")
    assert choose() == "generic"
    monkeypatch.setenv("LEPTON_ISA", "mmx")
    with pytest.raises(MachineError, match=f"LEPTON_ISA: no instruction set 'mmx'; known are {', '.join(SETS)}"):
        choose()
    with pytest.raises(MachineError, match="no instruction set ''"):
        instruction_set("")


@pytest.mark.parametrize("sets,fast,chosen", [
    (("avx512bf16", "avx512", "generic"), True, "avx512bf16"),
    (("avx512bf16", "avx512", "generic"), False, "avx512"),
    (("amx", "avx512bf16", "avx512", "generic"), False, "amx"),
    (("avx512", "generic"), False, "avx512"),
    (("generic",), False, "generic"),
])  # fmt: skip
def test_pairs_of_bf16_are_chosen_where_they_are_fast(monkeypatch, sets, fast, chosen):
    monkeypatch.setattr(machine, "available", lambda: sets)
    monkeypatch.setattr(machine, "fast_bf16_pairs", lambda: fast)
    assert machine.fastest() == chosen


def test_an_instruction_set_that_the_cpu_lacks(monkeypatch):
    monkeypatch.setattr("lepton_edge.kernels.machine.available", lambda: ("generic",))
    with pytest.raises(MachineError, match="this CPU lacks 'avx512'; it has generic"):
        choose("avx512")
