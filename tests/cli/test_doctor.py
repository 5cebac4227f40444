"""`lepton doctor` on this machine, and on machines with something wrong."""

import os
import subprocess
import sys

import pytest

from lepton_edge.cli import main
from lepton_edge.kernels.machine import available, choose


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LEPTON_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LEPTON_ISA", raising=False)
    return tmp_path / "cache"


def test_what_it_shows(own_cache, capsys) -> None:
    (own_cache / "old").mkdir(parents=True)
    (own_cache / "old" / "walk.o").write_bytes(bytes(1500))
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    labels = [line.split()[0] for line in text.split("\n") if line and not line.startswith(" ")]
    assert labels == ["lepton", "packages", "cpu", "features", "isa", "cores", "gpu", "cache", "models"]
    assert f"isa       {choose()} (this CPU has {', '.join(available())})" in text
    assert "1 compiled kernels, 1.5 KB" in " ".join(text.split())


def test_a_forced_instruction_set(monkeypatch, capsys) -> None:
    monkeypatch.setenv("LEPTON_ISA", "generic")
    assert main(["doctor"]) == 0
    assert "isa       generic" in capsys.readouterr().out
    monkeypatch.setenv("LEPTON_ISA", "sse9")
    assert main(["doctor"]) == 2
    captured = capsys.readouterr()
    assert "isa       none" in captured.out
    assert captured.err.startswith("lepton: error: LEPTON_ISA: no instruction set 'sse9'")


def test_a_cache_that_cannot_be_written(own_cache, capsys) -> None:
    own_cache.write_text("a file where the folder should be")
    assert main(["doctor"]) == 2
    captured = capsys.readouterr()
    assert "(not writable)" in captured.out
    assert "set LEPTON_CACHE" in captured.err and captured.err.count("\n") == 1


def test_numba_is_not_imported() -> None:
    code = (
        "import sys; from lepton_edge.cli import main; code = main(['doctor'])\n"
        "print('numba' in sys.modules, code, file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert result.stderr == "False 0\n"
