"""Results survive their file, the newest run is found, and a damaged file is refused by name and line."""

import json

import pytest

from bench.results import Result, ResultsError, append, latest, newest, read, speedup

RUN = "2026-11-23T08:00:00+00:00"


def result(engine="lepton_edge", run=RUN, test="tg64", samples=(3.0, 1.0, 2.0), others=0.0, cpu="A CPU", isa="avx2"):
    facts = dict(run=run, host="vm", cpu=cpu, cores=2, system="Linux", commit="abc1234", version="1", command="x")
    case = dict(shape="smollm2-135m", format="q4", threads=2, isa=isa, test=test)
    return Result(**facts, **case, engine=engine, samples=samples, others=others)


def test_median_and_spread():
    assert (result().median, result().low, result().high) == (2.0, 1.0, 3.0)
    assert result(samples=(1.0, 4.0)).median == 2.5


def test_written_results_read_back(tmp_path):
    path = tmp_path / "results" / "2026-11-23-vm.jsonl"
    append(path, [result()])
    append(path, [result("llama.cpp"), result(test="pp256")])
    assert read(path) == [result(), result("llama.cpp"), result(test="pp256")]
    row = json.loads(path.read_text().splitlines()[0])
    assert (row["median"], row["min"], row["max"], row["unit"]) == (2.0, 1.0, 3.0, "tok/s")


def test_newest_is_the_last_run_whatever_the_file_is_called(tmp_path):
    old, new = "2026-11-23T08:00:00+00:00", "2026-11-23T09:30:00+00:00"
    append(tmp_path / "2026-11-23-a.jsonl", [result(run=old), result(run=new), result("llama.cpp", run=new)])
    append(tmp_path / "2026-11-23-b.jsonl", [result(run=old)])
    path, results = newest(tmp_path)
    assert path.name == "2026-11-23-a.jsonl"
    assert results == [result(run=new), result("llama.cpp", run=new)]


def test_newest_has_the_newest_run_of_each_machine_in_that_file(tmp_path):
    old, new, newer = (f"2026-11-23T{hour}:00:00+00:00" for hour in ("08", "09", "10"))
    runs = [result(run=old), result(run=new), result(run=old, cpu="B CPU"), result(run=newer, cpu="B CPU")]
    append(tmp_path / "a.jsonl", runs)
    append(tmp_path / "b.jsonl", [result(run=new, cpu="C CPU")])
    assert newest(tmp_path) == (tmp_path / "a.jsonl", [result(run=newer, cpu="B CPU"), result(run=new)])


def test_what_was_measured_again_counts_once():
    first, again = result(others=0.9), result(others=0.0)
    other = [result("llama.cpp"), result(test="pp512"), result(isa="avx512"), result(cpu="B CPU")]
    assert latest([first, *other, again]) == [again, *other]


def test_no_results_says_how_to_make_some(tmp_path):
    with pytest.raises(ResultsError, match=r"python -m bench\.e2e"):
        newest(tmp_path)


@pytest.mark.parametrize(("others", "disturbed"), [(None, False), (0.1, False), (0.11, True)])
def test_a_busy_machine_disturbs(others, disturbed):
    assert result(others=others).disturbed == disturbed


@pytest.mark.parametrize(
    "change",
    [{"samples": []}, {"samples": [0]}, {"samples": [float("nan")]}, {"samples": None}, {"samples": ["fast"]}],
)
def test_bad_samples_are_refused(tmp_path, change):
    path = tmp_path / "bad.jsonl"
    path.write_text(result().line() + "\n" + json.dumps({**json.loads(result().line()), **change}) + "\n")
    with pytest.raises(ResultsError, match=r"bad\.jsonl, line 2"):
        read(path)


@pytest.mark.parametrize("line", ["", "{", "[]", "3", '{"samples": [1]}'])
def test_lines_that_are_no_results_are_refused(tmp_path, line):
    path = tmp_path / "bad.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ResultsError, match=r"bad\.jsonl, line 1"):
        read(path)


def test_speedup_compares_medians_of_the_same_case():
    ours, other_test = result(samples=(6.0,)), result(test="pp256", samples=(50.0,))
    peer = result("llama.cpp", samples=(4.0,))
    assert speedup(peer, [other_test, ours, peer]) == 1.5
    assert speedup(peer, [other_test, peer]) is None
    assert speedup(peer, [result(samples=(6.0,), isa="avx512"), peer]) is None
