"""What the engines print is read to the right figures; anything else is refused with the engine's name."""

import json
import sys
from pathlib import Path

import pytest

from bench.engines import EngineError, Job, Lepton, LlamaCpp, Reading, gguf_name, measure, parse_lepton, parse_llama

JOB = Job("smollm2-135m", "q4", prompt=256, new=64, threads=2)
LLAMA = [
    {"build_commit": "0c1e570", "n_prompt": 256, "n_gen": 0, "avg_ts": 1850.5, "samples_ts": [1850.5]},
    {"build_commit": "0c1e570", "n_prompt": 0, "n_gen": 64, "avg_ts": 223.25, "samples_ts": [223.25]},
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

    def parse(self, text: str) -> Reading:
        return parse_llama(text)


def test_tests_have_llama_bench_names():
    assert JOB.tests == ("pp256", "tg64")


def test_llama_bench_answer_is_read():
    assert parse_llama(json.dumps(LLAMA)) == Reading("0c1e570", {"pp256": 1850.5, "tg64": 223.25})


def test_lepton_answer_is_read():
    assert parse_lepton(json.dumps(LEPTON)) == Reading("0.1.0", {"pp256": 2900.0, "tg64": 400.0})


@pytest.mark.parametrize("speed", [0, -1.0, float("nan"), float("inf"), "12", None])
def test_a_speed_must_be_a_positive_number(speed):
    with pytest.raises(ValueError, match="no speed"):
        parse_lepton(json.dumps([{**LEPTON[0], "tok_s_mean": speed}]))


def test_commands_ask_both_engines_for_the_same():
    shared = ["-p", "256", "-n", "64", "-r", "1", "-t", "2", "-o", "json"]
    python, *lepton = Lepton().command(JOB)
    assert python == sys.executable
    assert lepton == ["-m", "lepton_edge", "bench", "--shape", "smollm2-135m", "--format", "q4", *shared]
    llama = LlamaCpp(Path("llama-bench"), Path("models")).command(JOB)
    assert llama == ["llama-bench", "-m", str(Path("models", "smollm2-135m-q4_0.gguf")), *shared]


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
        (LlamaCpp(Path("/nowhere/llama-bench"), Path()), "llama.cpp: .*/nowhere/llama-bench"),
    ],
)
def test_a_failing_engine_is_named(engine, message):
    with pytest.raises(EngineError, match=f"(?s){message}"):
        measure(engine, JOB)


def test_an_absent_peer_says_why(tmp_path):
    assert "LEPTON_LLAMA_BENCH" in LlamaCpp(None, tmp_path).missing(JOB)
    assert "/nowhere/llama-bench" in LlamaCpp(Path("/nowhere/llama-bench"), tmp_path).missing(JOB)
    present = LlamaCpp(Path(sys.executable), tmp_path)
    assert "python -m bench.gguf_random --format q4" in present.missing(JOB)
    (tmp_path / gguf_name("smollm2-135m", "q4")).touch()
    assert present.missing(JOB) is None
