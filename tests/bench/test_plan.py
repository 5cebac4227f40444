"""What issue 3 asks for is measured, and a target is met exactly when our median reaches it."""

import pytest

from bench import plan
from bench.results import Result
from lepton_edge.cli.shapes import SHAPES

FACTS = dict(run="2026-11-23T08:00:00+00:00", host="vm", cpu="A CPU", cores=2, system="Linux", commit="abc1234")


def result(engine, test, speed, format="q4", shape="qwen2.5-0.5b", isa="avx512"):
    case = dict(shape=shape, format=format, threads=2, isa=isa, test=test, version="1", command="x")
    return Result(**FACTS, **case, engine=engine, samples=(speed,), others=None)


def cells(results, title, best="avx512"):
    (line,) = [line for line in plan.report(results, best).splitlines() if line.startswith(title)]
    return line[33:].split()


def test_every_target_is_measured_by_some_piece():
    for shape in SHAPES:
        pieces = plan.pieces(shape, 2, ("avx512", "avx2", "generic"))
        measured = {("lepton_edge", job.format, job.isa, test) for jobs in pieces.values()
                    for job in jobs for test in job.tests}  # fmt: skip
        measured |= {(peer, job.format, job.isa, test) for jobs in pieces.values()
                     for job in jobs for test in job.tests for peer in job.peers}  # fmt: skip
        for target in plan.TARGETS:
            isa = target.isa or "avx512"
            assert ("lepton_edge", target.format, isa, target.test) in measured
            assert (target.engine, target.format, isa, target.base) in measured


def test_avx2_is_not_measured_twice_where_it_is_the_best():
    assert "avx2" not in plan.pieces("smollm2-135m", 2, ("avx2", "generic"))
    assert "avx2" not in plan.pieces("smollm2-135m", 2, ("generic",))
    jobs = [job for jobs in plan.pieces("smollm2-135m", 2, ("avx2", "generic")).values() for job in jobs]
    assert {job.isa for job in jobs} == {"avx2"}


def test_a_target_is_met_exactly_when_the_median_reaches_it():
    for ours, verdict in ((160.0, "PASS"), (159.0, "short")):
        results = [result("lepton_edge", "tg64", ours), result("llama.cpp", "tg64", 100.0)]
        ratio = f"{ours / 100:.2f}/1.60"
        assert cells(results, "decode q4 / Q4_0") == ["–/1.80", ratio, verdict, "–/1.35"]
    results[0] = result("lepton_edge", "tg64", 160.0, format="q8")
    assert cells(results, "decode q4 / Q4_0") == ["–/1.80", "–/1.60", "–/1.35"]


def test_own_targets_compare_two_tests_of_ours():
    results = [result("lepton_edge", test, speed) for test, speed in (("pp512", 100.0), ("pp4096", 64.0))]
    assert cells(results, "prefill 4096") == ["–/0.60", "0.64/0.65", "short", "–/0.70"]
    assert plan.base_of(results[1]) == "pp512"
    assert plan.base_of(results[0]) is None
    assert plan.base_of(result("llama.cpp", "pp4096", 1.0)) is None


def test_lines_of_an_instruction_set_take_its_results_only():
    both = [result("lepton_edge", "tg64", 120.0, isa="avx2"), result("llama.cpp", "tg64", 100.0, isa="avx2")]
    assert cells(both, "avx2: decode") == ["–/1.10", "1.20/1.10", "PASS", "–/1.10"]
    assert cells(both, "decode q4 / Q4_0") == ["–/1.80", "–/1.60", "–/1.35"]
    assert cells(both, "decode q4 / Q4_0", best="avx2") == ["–/1.80", "1.20/1.60", "short", "–/1.35"]


@pytest.mark.parametrize(("best", "lines"), [("avx512", 12), ("avx2", 13)])
def test_the_report_fits_80_columns_and_says_when_it_is_about_another_cpu(best, lines):
    everything = [
        result(engine, test, 100.0, target.format, shape, best)
        for target in plan.TARGETS for shape in SHAPES
        for engine, test in (("lepton_edge", target.test), (target.engine, target.base))
    ]  # fmt: skip
    report = plan.report(everything, best).splitlines()
    assert len(report) == lines
    assert max(map(len, report)) <= 80
    assert ("this is avx2" in report[-1]) == (best == "avx2")
