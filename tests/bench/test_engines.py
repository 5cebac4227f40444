"""What the engines print is read to the right figures; anything else is refused with the engine's name."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.engines import (
    EngineError,
    GenAI,
    Job,
    Lepton,
    LlamaCpp,
    Reading,
    Transformers,
    gguf_name,
    measure,
    parse_batched,
    parse_llama,
    parse_rows,
    peers_python,
)

JOB = Job("smollm2-135m", "q4", threads=2, isa="avx2", prompt=256, new=64)
BATCH = Job("smollm2-135m", "q4", threads=2, isa="avx2", new=64, batch=8, depth=300)
LLAMA = [
    {"build_commit": "0c1e570", "n_prompt": 256, "n_gen": 0, "n_depth": 0, "avg_ts": 1850.5, "samples_ts": [1850.5]},
    {"build_commit": "0c1e570", "n_prompt": 0, "n_gen": 64, "n_depth": 0, "avg_ts": 223.25, "samples_ts": [223.25]},
]
LEPTON = [
    {"format": "q4", "threads": 2, "test": "pp256", "tok_s_mean": 2900.0, "version": "0.1.0"},
    {"format": "q4", "threads": 2, "test": "tg64", "tok_s_mean": 400, "version": "0.1.0"},
]


class Printing:
    """An engine that prints what it is told, with the exit code it is told."""

    name = "printing"

    def __init__(self, text: str, code: int = 0) -> None:
        self.text = text
        self.code = code

    def missing(self, job: Job) -> str | None:
        return None

    def command(self, job: Job) -> list[str]:
        program = f"import sys; print({self.text!r}); sys.stderr.write('why it failed'); sys.exit({self.code})"
        return [sys.executable, "-c", program]

    def parse(self, text: str, job: Job) -> Reading:
        return parse_llama(text)


def test_tests_have_llama_bench_names():
    assert JOB.tests == ("pp256", "tg64")
    assert replace(JOB, depth=4096).tests == ("pp256 @ d4096", "tg64 @ d4096")
    assert replace(JOB, new=0).tests == ("pp256",)
    assert BATCH.tests == ("tg64 x8 @ d300",)


def test_llama_bench_answer_is_read():
    assert parse_llama(json.dumps(LLAMA)) == Reading("0c1e570", {"pp256": 1850.5, "tg64": 223.25})
    deep = [{**row, "n_depth": 4096} for row in LLAMA]
    assert list(parse_llama(json.dumps(deep)).speeds) == ["pp256 @ d4096", "tg64 @ d4096"]


def test_llama_batched_bench_answer_is_read():
    row = {"pp": 300, "tg": 64, "pl": 8, "speed_pp": 264.5, "speed_tg": 255.25}
    assert parse_batched(f"\n{json.dumps(row)}\n", BATCH) == {"tg64 x8 @ d300": 255.25}
    with pytest.raises(ValueError, match="something else"):
        parse_batched(json.dumps({**row, "pl": 4}), BATCH)


def test_lepton_answer_is_read():
    assert parse_rows(json.dumps(LEPTON)) == Reading("0.1.0", {"pp256": 2900.0, "tg64": 400.0})


@pytest.mark.parametrize("speed", [0, -1.0, float("nan"), float("inf"), "12", None])
def test_a_speed_must_be_a_positive_number(speed):
    with pytest.raises(ValueError, match="no speed"):
        parse_rows(json.dumps([{**LEPTON[0], "tok_s_mean": speed}]))


def test_commands_ask_all_engines_for_the_same():
    shared = ["-p", "256", "-n", "64", "-d", "0", "-r", "1", "-t", "2", "-o", "json"]
    python, *lepton = Lepton().command(JOB)
    assert python == sys.executable
    what = ["--shape", "smollm2-135m", "--format", "q4", "--isa", "avx2", "-b", "1"]
    assert lepton == ["-m", "lepton_edge", "bench", *what, *shared]
    llama = LlamaCpp({"avx2": Path("llama-bench")}, Path("models")).command(JOB)
    assert llama == ["llama-bench", "-m", str(Path("models", "smollm2-135m-q4_0.gguf")), *shared]
    genai = GenAI(Path("python"), Path("models")).command(JOB)
    assert genai == ["python", "-m", "bench.peers.genai", "--model", str(Path("models", "smollm2-135m")), *shared]
    transformers = Transformers(Path("python")).command(JOB)
    assert transformers == ["python", "-m", "bench.peers.transformers_bf16", "--shape", "smollm2-135m", *shared]


def test_batches_are_measured_by_llama_batched_bench_with_whole_blocks_of_cache():
    command = LlamaCpp({"avx2": Path("bin", "llama-bench")}, Path("models")).command(BATCH)
    assert command[0] == str(Path("bin", "llama-batched-bench"))
    # 300 + 64 positions are two blocks of 256, for each of 8 sequences.
    sizes = ["-c", "4096", "-npp", "300", "-ntg", "64", "-npl", "8", "-t", "2", "--output-format", "jsonl"]
    assert command[3:] == sizes
    ours = Lepton().command(BATCH)
    assert ours[ours.index("-b") + 1] == "8"


def test_each_instruction_set_has_its_own_build():
    builds = {"avx512": Path("native", "llama-bench"), "avx2": Path("limited", "llama-bench")}
    assert LlamaCpp(builds, Path()).command(JOB)[0] == str(Path("limited", "llama-bench"))
    assert LlamaCpp(builds, Path()).command(replace(JOB, isa="avx512"))[0] == str(Path("native", "llama-bench"))


def test_measure_runs_the_command():
    assert measure(Printing(json.dumps(LLAMA)), JOB).speeds == {"pp256": 1850.5, "tg64": 223.25}


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (Printing(json.dumps(LLAMA), code=3), "printing: exit code 3 .*\nwhy it failed"),
        (Printing("Illegal instruction"), "printing: cannot read its answer"),
        (Printing("[]"), "printing: cannot read its answer"),
        (Printing("[1]"), "printing: cannot read its answer"),
        (Printing(json.dumps([{"n_gen": 64}])), "printing: cannot read its answer"),
        (Printing(json.dumps(LLAMA[:1])), "printing: its answer has no tg64"),
        (LlamaCpp({"avx2": Path("/nowhere/llama-bench")}, Path()), "llama.cpp: .*/nowhere/llama-bench"),
    ],
)
def test_a_failing_engine_is_named(engine, message):
    with pytest.raises(EngineError, match=f"(?s){message}"):
        measure(engine, JOB)


def test_an_absent_peer_says_why(tmp_path):
    assert "LEPTON_LLAMA_BENCH" in LlamaCpp({}, tmp_path).missing(JOB)
    assert "/nowhere/llama-bench" in LlamaCpp({"avx2": Path("/nowhere/llama-bench")}, tmp_path).missing(JOB)
    present = LlamaCpp({"avx2": Path(sys.executable)}, tmp_path)
    assert "avx512" in present.missing(replace(JOB, isa="avx512"))
    assert "no f32" in present.missing(replace(JOB, format="f32"))
    assert "python -m bench.gguf_random --format q4" in present.missing(JOB)
    (tmp_path / gguf_name("smollm2-135m", "q4")).touch()
    assert present.missing(JOB) is None


def test_an_absent_package_says_why(tmp_path):
    assert "LEPTON_BENCH_PEERS" in GenAI(None, tmp_path).missing(JOB)
    assert "/nowhere/python" in GenAI(Path("/nowhere/python"), tmp_path).missing(JOB)
    present = GenAI(Path(sys.executable), tmp_path)
    assert f"python -m bench.genai_random --python {sys.executable}" in present.missing(JOB)
    (tmp_path / "smollm2-135m").mkdir()
    assert present.missing(JOB) is None
    assert "no q8" in present.missing(replace(JOB, format="q8"))
    assert "no batches" in present.missing(BATCH)
    assert "no q4" in Transformers(Path(sys.executable)).missing(JOB)
    assert Transformers(Path(sys.executable)).missing(replace(JOB, format="bf16")) is None


def test_packages_are_looked_for_in_the_environment_that_is_named(monkeypatch):
    monkeypatch.delenv("LEPTON_BENCH_PEERS", raising=False)
    assert peers_python() is None
    monkeypatch.setenv("LEPTON_BENCH_PEERS", "venv")
    assert peers_python().parent.parent == Path("venv")
