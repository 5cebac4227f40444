"""The verbs as a user runs them: real processes, a real engine, a small random model."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from golden.recipe import write_folder

import lepton_edge

PROMPT = "w5 w9 w40"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_folder("llama_plain", tmp_path_factory.mktemp("whole") / "plain")


@pytest.fixture(scope="module")
def packed(folder) -> Path:
    """The same model, packed by `lepton quantize`; what it printed is in packed.txt beside it."""
    target = folder.with_name("packed")
    report = lepton("quantize", str(folder), str(target), "--format", "q4", "--keep", "down_proj=q8")
    folder.with_name("packed.txt").write_text(report)
    return target


def lepton(*arguments: str, code: int = 0) -> str:
    """Runs the command, asserts its exit code, and returns its output (its error message when it failed)."""
    command = [sys.executable, "-m", "lepton_edge", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=300)
    assert result.returncode == code, result.stderr
    return result.stderr if code else result.stdout


def test_generate_says_what_python_says(folder) -> None:
    with lepton_edge.load(folder) as model:
        expected = model.generate(PROMPT, max_tokens=12)
        seeded = model.generate(PROMPT, max_tokens=12, temperature=0.9, top_k=40, seed=5)
    assert lepton("generate", "-m", str(folder), "-n", "12", PROMPT) == PROMPT + expected + "\n"
    flags = ["-n", "12", "--temp", "0.9", "--top-k", "40", "-s", "5", "--json"]
    result = json.loads(lepton("generate", "-m", str(folder), *flags, PROMPT))
    assert result["text"] == seeded
    assert (result["prompt_tokens"], len(result["tokens"]), result["finish_reason"]) == (3, 12, "length")


def test_a_second_process_needs_no_numba(folder) -> None:
    arguments = ["generate", "-m", str(folder), "-n", "2", PROMPT]
    lepton(*arguments)
    code = (
        "import sys; from lepton_edge.cli import main\n"
        f"code = main({arguments!r})\n"
        "print(code, 'numba' in sys.modules, file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stderr == "0 False\n"


def test_quantize_then_inspect_then_generate(folder, packed) -> None:
    report = (packed.parent / "packed.txt").read_text()
    assert re.search(r"model\.embed_tokens\.weight +q4 +[45]\.\d+ +0\.\d+\n", report)
    assert re.search(r"down_proj\.weight +q8 +", report)
    assert "q4" in lepton("inspect", str(packed)) and "matmul_q8" in lepton("inspect", str(packed), "--program")
    with lepton_edge.load(packed) as model:
        expected = model.generate(PROMPT, max_tokens=6)
    assert lepton("generate", "-m", str(packed), "-n", "6", "--no-display-prompt", PROMPT) == expected + "\n"
    assert "exists already" in lepton("quantize", str(folder), str(packed), "--format", "q4", code=2)


def test_bench_measures_a_folder(packed) -> None:
    text = lepton("bench", "-m", str(packed), "-p", "16", "-n", "4", "-r", "2", "-t", "2", "-o", "json")
    pp, tg = json.loads(text)
    assert (pp["test"], tg["test"], pp["format"], pp["threads"]) == ("pp16", "tg4", "q4", 2)
    assert len(pp["samples"]) == 2 and min(pp["samples"] + tg["samples"]) > 0
    assert tg["bandwidth_share"] > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-n", "0"], "max_tokens"),
        (["--temp", "nan"], "temperature"),
        (["--format", "q5"], "q5"),
        (["--isa", "sse9"], "sse9"),
        (["-c", "2"], "context"),
        (["-t", "100000"], "threads"),
    ],
)
def test_wrong_values_are_one_line(folder, arguments: list[str], said: str) -> None:
    error = lepton("generate", "-m", str(folder), *arguments, PROMPT, code=2)
    assert error.startswith("lepton: error: ") and error.count("\n") == 1
    assert said in error


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
def test_ctrl_c_ends_at_once(tmp_path) -> None:
    folder = write_folder("llama_plain", tmp_path / "long")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1 << 20}))
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "lepton_edge", "generate", "-m", str(folder), "-n", "1000000", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stdin.write(PROMPT)
    process.stdin.close()
    process.stdout.read(len(PROMPT) + 5)
    process.send_signal(signal.SIGINT)
    started = time.perf_counter()
    assert process.wait(timeout=30) == 130
    assert time.perf_counter() - started < 2
    assert process.stderr.read() == ""
