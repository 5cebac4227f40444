"""The engines take turns, a run is gone on with where it stopped, and what is printed fits a terminal."""

import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import e2e
from bench.engines import GenAI, Job, Lepton, LlamaCpp, Reading
from bench.results import Result, ResultsError, append, read
from lepton_edge.cli.shapes import SHAPES

FACTS = dict(run="2026-11-23T08:00:00+00:00", host="vm", cpu="A CPU", cores=2, system="Linux", commit="abc1234")
JOB = Job("smollm2-135m", "q4", threads=2, isa="avx2", prompt=256, new=64)


def speeds(job: Job, speed: float, others: float = 0.0) -> Reading:
    return Reading("1", dict.fromkeys(job.tests, speed), others=others)


def test_engines_take_turns_in_alternating_order(monkeypatch, tmp_path):
    calls = []

    def measure(engine, job):
        calls.append(engine.name)
        return Reading("1", {"pp256": float(len(calls)), "tg64": 10.0}, others=len(calls) / 100)

    monkeypatch.setattr(e2e, "measure", measure)
    ours, peer = Lepton(), LlamaCpp({"avx2": tmp_path / "llama-bench"}, tmp_path)
    readings = e2e.take_turns([(ours, JOB), (peer, JOB)], rounds=3)
    assert calls == ["lepton_edge", "llama.cpp", "llama.cpp", "lepton_edge", "lepton_edge", "llama.cpp"]
    results = e2e.to_results(ours, JOB, readings[0], FACTS)
    assert [(result.test, result.samples) for result in results] == [("pp256", (1.0, 4.0, 5.0)), ("tg64", (10.0,) * 3)]
    assert [(result.others, result.isa) for result in results] == [(0.05, "avx2")] * 2
    assert e2e.to_results(peer, JOB, readings[1], FACTS)[0].samples == (2.0, 3.0, 6.0)


def test_no_round_is_begun_that_would_end_too_late(monkeypatch):
    now = [0.0]

    def measure(engine, job):
        now[0] += 10.0
        return speeds(job, 1.0)

    monkeypatch.setattr(e2e, "measure", measure)
    monkeypatch.setattr(e2e, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    turns = [(Lepton(), JOB), (Lepton(), JOB)]
    assert [len(readings) for readings in e2e.take_turns(turns, rounds=5, seconds=60.0)] == [3, 3]
    assert [len(readings) for readings in e2e.take_turns(turns, rounds=5, seconds=59.0)] == [2, 2]
    assert [len(readings) for readings in e2e.take_turns(turns, rounds=5, seconds=1.0)] == [1, 1]
    assert [len(readings) for readings in e2e.take_turns(turns, rounds=5)] == [5, 5]


def test_a_job_is_done_by_its_peers_only_and_a_reason_is_given_once(capsys):
    ours, llama, genai = Lepton(), LlamaCpp({}, Path()), GenAI(None, Path())
    jobs = [JOB, replace(JOB, prompt=512), replace(JOB, prompt=4096, peers=())]
    assert e2e.present([ours, llama, genai], jobs, said := set()) == [(ours, job) for job in jobs]
    assert len(said) == len(capsys.readouterr().err.splitlines()) == 2
    assert e2e.present([ours, genai], [replace(JOB, peers=("llama.cpp",))], set()) == [
        (ours, replace(JOB, peers=("llama.cpp",)))
    ]
    assert capsys.readouterr().err == ""


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with this project only, and a results folder; -> the jobs that were measured, as they come."""
    measured = []

    def measure(engine, job):
        measured.append(job)
        return speeds(job, 100.0, others=0.9 if job.format == "q8" else 0.0)

    monkeypatch.setattr(e2e, "measure", measure)
    monkeypatch.setattr(e2e, "facts", lambda: dict(FACTS))
    monkeypatch.setattr(e2e, "available", lambda: ("avx2", "generic"))
    monkeypatch.setattr(e2e, "FOLDER", tmp_path)
    monkeypatch.setattr("bench.results.FOLDER", tmp_path)
    monkeypatch.setattr("bench.results.newest.__defaults__", (tmp_path,))
    for name in ("LEPTON_LLAMA_BENCH", "LEPTON_LLAMA_BENCH_AVX2", "LEPTON_BENCH_PEERS"):
        monkeypatch.delenv(name, raising=False)
    return measured


def run(monkeypatch, *flags: str) -> int:
    monkeypatch.setattr("sys.argv", ["bench.e2e", *flags])
    return e2e.main()


def test_resume_measures_what_is_absent_or_was_disturbed(monkeypatch, machine, tmp_path, capsys):
    assert run(monkeypatch, "--all", "--rounds", "1", "--piece", "q4", "smollm2-135m") == 0
    assert [job.tests for job in machine] == [("pp512", "tg64"), ("pp4096",), ("tg64 x8",)]
    machine.clear()
    monkeypatch.setattr(e2e, "facts", lambda: {**FACTS, "run": "2026-11-23T09:00:00+00:00"})
    assert run(monkeypatch, "--all", "--resume", "--rounds", "1", "smollm2-135m") == 0
    assert [job.format for job in machine] == ["q8", "q4", "bf16"]
    assert "DISTURBED" in capsys.readouterr().out
    machine.clear()
    assert run(monkeypatch, "--all", "--resume", "--rounds", "1", "smollm2-135m") == 0
    assert [job.format for job in machine] == ["q8"]
    (path,) = tmp_path.iterdir()
    assert {result.run for result in read(path)} == {FACTS["run"]}
    out = capsys.readouterr().out
    assert "1.00/0.60 PASS" in out and "1.00/3.00 short" in out


def test_a_run_is_resumed_on_its_own_machine_and_commit_only(monkeypatch, machine, tmp_path, capsys):
    assert run(monkeypatch, "--all", "--resume") == 1
    assert "no results" in capsys.readouterr().err
    result = e2e.to_results(Lepton(), JOB, [speeds(JOB, 1.0)], FACTS)
    append(tmp_path / "x.jsonl", result)
    for change in ({"commit": "def5678"}, {"cpu": "B CPU"}):
        monkeypatch.setattr(e2e, "facts", lambda change=change: {**FACTS, **change})
        assert run(monkeypatch, "--all", "--resume") == 1
        (key,) = change
        assert f"its newest run has {key}" in capsys.readouterr().err
    assert machine == []
    with pytest.raises(ResultsError, match="cores 2, here it is 4"):
        e2e.resumed({**FACTS, "cores": 4}, Path("x"), result)


def test_free_jobs_are_one_for_each_prompt_and_batch(monkeypatch, machine):
    flags = ["smollm2-135m", "--format", "q8", "-p", "128,0,512", "-n", "8", "-b", "1,4", "-d", "16", "--rounds", "1"]
    assert run(monkeypatch, *flags) == 0
    assert [job.tests for job in machine] == [("pp128 @ d16",), ("pp512 @ d16",), ("tg8 @ d16",), ("tg8 x4 @ d16",)]
    assert {(job.format, job.isa, job.peers) for job in machine} == {("q8", "avx2", None)}
    machine.clear()
    assert run(monkeypatch, "smollm2-135m", "--isa", "generic", "-p", "0", "--rounds", "1") == 0
    assert [(job.isa, job.peers) for job in machine] == [("generic", ("llama.cpp",))]


def test_table_fits_80_columns_and_gives_the_speed_up_beside_the_peer():
    def result(engine, shape, speed):
        case = dict(shape=shape, format="q4", threads=2, isa="avx512", test="pp4096 @ d4096", version="1", command="x")
        return Result(**FACTS, **case, engine=engine, samples=(speed, 99999.9, speed), others=None)

    results = [result(engine, shape, 1000.0) for engine in ("lepton_edge", "onnxruntime-genai") for shape in SHAPES]
    lines = e2e.table(results).splitlines()
    assert len(lines) == 1 + 3 * len(SHAPES)
    assert max(len(line) for line in lines) <= 80
    assert lines[1] == "smollm2-135m q4 avx512"
    assert lines[2].split() == ["pp4096", "@", "d4096", "lepton_edge", "1000.0", "1000.0", "99999.9"]
    assert lines[3].split() == ["pp4096", "@", "d4096", "onnxruntime-genai", "1000.0", "1000.0", "99999.9", "1.00"]


def test_facts_name_the_machine_and_the_commit():
    facts = e2e.facts()
    assert facts["cpu"] and facts["commit"] and facts["cores"] >= 1
    assert set(facts) == set(FACTS)


def test_new_results_do_not_make_the_commit_dirty(monkeypatch, tmp_path):
    def git(*arguments):
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@x", *arguments], cwd=tmp_path, check=True)

    monkeypatch.setattr(e2e, "ROOT", tmp_path)
    assert e2e.commit() == "unknown"
    results, code = tmp_path / "bench" / "results" / "x.jsonl", tmp_path / "code.py"
    results.parent.mkdir(parents=True)
    for path in (results, code):
        path.write_text("1")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    clean = e2e.commit()
    assert len(clean) >= 7
    results.write_text("2")
    assert e2e.commit() == clean
    code.write_text("2")
    assert e2e.commit() == f"{clean}-dirty"


@pytest.mark.parametrize(
    "flags",
    [["no-such-shape"], ["--rounds", "0"], ["-t", "-1"], ["--format", "q5"], ["-p", "1,x"], ["-p", "-1"], ["-b", "0"],
     ["-p", "0", "-n", "0"], ["-d", "-1"], ["--isa", "mmx"], ["--piece", "q5"], ["--resume", "--out", "x"]],
)  # fmt: skip
def test_bad_arguments_are_refused(monkeypatch, capsys, flags):
    monkeypatch.setattr("sys.argv", ["bench.e2e", *flags])
    with pytest.raises(SystemExit, match="2"):
        e2e.arguments()
    assert "error:" in capsys.readouterr().err
