"""The engines take turns, and what is printed fits a terminal."""

import pytest

from bench import e2e
from bench.engines import Job, Lepton, LlamaCpp, Reading
from bench.results import Result
from lepton_edge.cli.shapes import SHAPES

FACTS = dict(run="2026-11-23T08:00:00+00:00", host="vm", cpu="A CPU", cores=2, system="Linux", commit="abc1234")
JOB = Job("smollm2-135m", "q4", prompt=256, new=64, threads=2)


def test_engines_take_turns_in_alternating_order(monkeypatch, tmp_path):
    calls = []

    def measure(engine, job):
        calls.append(engine.name)
        return Reading("1", {"pp256": float(len(calls)), "tg64": 10.0}, others=len(calls) / 100)

    monkeypatch.setattr(e2e, "measure", measure)
    ours, peer = Lepton(), LlamaCpp(tmp_path / "llama-bench", tmp_path)
    readings = e2e.take_turns([ours, peer], JOB, rounds=3)
    assert calls == ["lepton_edge", "llama.cpp", "llama.cpp", "lepton_edge", "lepton_edge", "llama.cpp"]
    results = e2e.to_results(ours, JOB, readings["lepton_edge"], FACTS)
    assert [(result.test, result.samples) for result in results] == [("pp256", (1.0, 4.0, 5.0)), ("tg64", (10.0,) * 3)]
    assert [result.others for result in results] == [0.05, 0.05]
    assert e2e.to_results(peer, JOB, readings["llama.cpp"], FACTS)[0].samples == (2.0, 3.0, 6.0)


def test_table_fits_80_columns_and_gives_the_speed_up_beside_the_peer():
    def result(engine, shape, speed):
        case = dict(shape=shape, format="q4", threads=2, test="pp4096", version="1", command="x")
        return Result(**FACTS, **case, engine=engine, samples=(speed, 99999.9, speed), others=None)

    results = [result(engine, shape, 1000.0) for engine in ("lepton_edge", "llama.cpp") for shape in SHAPES]
    lines = e2e.table(results).splitlines()
    assert len(lines) == 7
    assert max(len(line) for line in lines) <= 80
    assert lines[1].split() == ["smollm2-135m", "q4", "pp4096", "lepton_edge", "1000.0", "1000.0", "99999.9"]
    assert lines[2].split() == ["smollm2-135m", "q4", "pp4096", "llama.cpp", "1000.0", "1000.0", "99999.9", "1.00"]


def test_facts_name_the_machine_and_the_commit():
    facts = e2e.facts()
    assert facts["cpu"] and facts["commit"] and facts["cores"] >= 1
    assert set(facts) == set(FACTS)


@pytest.mark.parametrize("flags", [["no-such-shape"], ["--rounds", "0"], ["-t", "-1"], ["--format", "q5"]])
def test_bad_arguments_are_refused(monkeypatch, capsys, flags):
    monkeypatch.setattr("sys.argv", ["bench.e2e", *flags])
    with pytest.raises(SystemExit, match="2"):
        e2e.arguments()
    assert "error:" in capsys.readouterr().err
