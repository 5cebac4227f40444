"""The README's table says what the results say, lands between its markers, and is checked."""

import sys

import pytest

from bench import table
from bench.results import Result, ResultsError, append

README = f"# Title\n\n{table.BEGIN}\nold\n{table.END}\n\nAfter.\n"


def result(engine, shape, test, *samples, others=0.01):
    facts = dict(run="2026-11-23T08:00:00+00:00", host="vm", cpu="A CPU", cores=2, system="Linux", commit="abc1234")
    versions = {"lepton_edge": "0.1.0", "llama.cpp": "0c1e570"}
    case = dict(shape=shape, format="q4", threads=2, test=test)
    return Result(**facts, **case, engine=engine, version=versions[engine], command="x", samples=samples, others=others)


RESULTS = [
    result("llama.cpp", "llama-3.2-1b", "tg64", 50.0, 51.0, 49.0),
    result("lepton_edge", "llama-3.2-1b", "tg64", 60.0, 59.0, 61.0),
    result("llama.cpp", "smollm2-135m", "pp256", 1850.0),
    result("lepton_edge", "smollm2-135m", "pp256", 2775.0),
]


def test_rows_are_cases_in_the_order_of_the_shapes_and_we_come_first():
    lines = table.render(RESULTS, "bench/results/x.jsonl").splitlines()
    assert lines[:4] == [
        "| model shape | weights | test | lepton_edge | llama.cpp |",
        "|---|---|---|---:|---:|",
        "| smollm2-135m | q4 | pp256 | **2775 (2775–2775)** | 1850 (1850–1850), 1.50× |",
        "| llama-3.2-1b | q4 | tg64 | **60.0 (59.0–61.0)** | 50.0 (49.0–51.0), 1.20× |",
    ]
    assert lines[4] == ""
    for fact in ("2 threads", "A CPU", "2026-11-23", "lepton_edge 0.1.0", "llama.cpp 0c1e570", "abc1234", "x.jsonl"):
        assert fact in lines[5]


def test_a_case_that_an_engine_did_not_do_is_a_dash():
    lines = table.render([RESULTS[0], RESULTS[3]], "x").splitlines()
    assert lines[2] == "| smollm2-135m | q4 | pp256 | **2775 (2775–2775)** | – |"
    assert lines[3] == "| llama-3.2-1b | q4 | tg64 | – | 50.0 (49.0–51.0) |"


def test_only_what_is_between_the_markers_changes():
    assert table.replace(README, "new") == f"# Title\n\n{table.BEGIN}\n\nnew\n\n{table.END}\n\nAfter.\n"
    once = table.replace(README, "| a |\n\nb")
    assert table.replace(once, "| a |\n\nb") == once


@pytest.mark.parametrize("readme", ["", table.BEGIN, f"{table.END}\n{table.BEGIN}\n", README + README])
def test_a_readme_without_its_markers_is_refused(readme):
    with pytest.raises(ResultsError, match="bench:begin"):
        table.replace(readme, "new")


def test_check_is_red_until_the_table_is_written(tmp_path, monkeypatch, capsys):
    readme = tmp_path / "README.md"
    readme.write_text(README, "utf-8")
    append(tmp_path / "2026-11-23-vm.jsonl", RESULTS)
    monkeypatch.setattr(table, "ROOT", tmp_path)
    monkeypatch.setattr(table, "newest", lambda: (tmp_path / "2026-11-23-vm.jsonl", RESULTS))

    def run(*flags):
        monkeypatch.setattr(sys, "argv", ["bench.table", "--readme", str(readme), *flags])
        return table.main()

    assert run("--check") == 1
    assert readme.read_text("utf-8") == README
    assert run() == 0
    assert run("--check") == 0
    assert "1.50×" in readme.read_text("utf-8")
    readme.write_text(readme.read_text("utf-8").replace("1.50×", "1.60×"), "utf-8")
    assert run("--check") == 1
    readme.unlink()
    assert run() == 2
    assert "README.md" in capsys.readouterr().err


def test_a_run_on_a_busy_machine_is_not_published(tmp_path, monkeypatch, capsys):
    readme = tmp_path / "README.md"
    readme.write_text(README, "utf-8")
    busy = [*RESULTS[:-1], result("lepton_edge", "smollm2-135m", "pp256", 2775.0, others=0.9)]
    monkeypatch.setattr(table, "newest", lambda: (tmp_path / "2026-11-23-vm.jsonl", busy))
    monkeypatch.setattr(sys, "argv", ["bench.table", "--readme", str(readme)])
    assert table.main() == 2
    assert readme.read_text("utf-8") == README
    assert "disturbed" in capsys.readouterr().err
