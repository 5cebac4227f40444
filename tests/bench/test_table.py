"""The README's table says what the results say, lands between its markers, and is checked."""

import subprocess
import sys

import pytest

from bench import table
from bench.results import Result, ResultsError, append

README = f"# Title\n\n{table.BEGIN}\nold\n{table.END}\n\nAfter.\n"


def result(engine, shape, test, *samples, others=0.01, format="q4", isa="avx2", cpu="A CPU"):
    facts = dict(run="2026-11-23T08:00:00+00:00", host="vm", cpu=cpu, cores=2, system="Linux", commit="abc1234")
    versions = {"lepton_edge": "0.1.0", "llama.cpp": "0c1e570"}
    case = dict(shape=shape, format=format, threads=2, isa=isa, test=test)
    return Result(**facts, **case, engine=engine, version=versions[engine], command="x", samples=samples, others=others)


RESULTS = [
    result("llama.cpp", "llama-3.2-1b", "tg64", 50.0, 51.0, 49.0),
    result("lepton_edge", "llama-3.2-1b", "tg64", 60.0, 59.0, 61.0),
    result("llama.cpp", "smollm2-135m", "pp256", 1850.0),
    result("lepton_edge", "smollm2-135m", "pp256", 2775.0),
]


def test_rows_are_cases_in_the_order_of_the_shapes_and_we_come_first():
    lines = table.render(RESULTS, "bench/results/x.jsonl").splitlines()
    assert lines[:2] == ["**A CPU, 2 cores, avx2**, Linux, 2026-11-23", ""]
    assert lines[2:6] == [
        "| model shape | weights | test | lepton_edge | llama.cpp |",
        "|---|---|---|---:|---:|",
        "| smollm2-135m | q4 | pp256 | **2775 (2775–2775)** | 1850 (1850–1850), 1.50× |",
        "| llama-3.2-1b | q4 | tg64 | **60.0 (59.0–61.0)** | 50.0 (49.0–51.0), 1.20× |",
    ]
    assert lines[6] == ""
    caption = " ".join(lines[7:])
    for fact in ("2 threads", "lepton_edge 0.1.0", "llama.cpp 0c1e570", "abc1234", "x.jsonl", "1 or 3 rounds"):
        assert fact in caption
    assert max(map(len, lines)) <= 120


def test_a_case_that_an_engine_did_not_do_is_a_dash():
    lines = table.render([RESULTS[0], RESULTS[3]], "x").splitlines()
    assert lines[4] == "| smollm2-135m | q4 | pp256 | **2775 (2775–2775)** | – |"
    assert lines[5] == "| llama-3.2-1b | q4 | tg64 | – | 50.0 (49.0–51.0) |"


def test_rows_of_a_shape_go_from_few_bits_to_many_and_from_short_to_long():
    cases = [("bf16", "tg32"), ("q8", "pp512"), ("q4", "tg64 @ d4096"), ("q4", "tg64 x8"), ("q4", "tg64"),
             ("q4", "pp4096"), ("q4", "pp512")]  # fmt: skip
    shuffled = [result("lepton_edge", "smollm2-135m", test, 1.0, format=format) for format, test in cases]
    rows = [line.split(" | ")[1:3] for line in table.render(shuffled, "x").splitlines()[4:11]]
    assert rows == [list(case) for case in reversed(cases)]


def test_a_test_that_is_set_against_another_of_ours_gives_the_ratio():
    ours = [result("lepton_edge", "smollm2-135m", test, speed) for test, speed in (("tg64", 200.0), ("tg64 x8", 700.0))]
    peer = result("llama.cpp", "smollm2-135m", "tg64 x8", 350.0)
    lines = table.render([*ours, peer], "x").splitlines()
    assert lines[5] == (
        "| smollm2-135m | q4 | tg64 x8 | **700 (700–700)**, 3.50 of tg64 | 350 (350–350), 2.00× |"
    )


def test_machines_and_instruction_sets_are_kept_apart():
    newer = [result("lepton_edge", "smollm2-135m", "tg64", speed, isa=isa, cpu="B CPU")
             for isa, speed in (("avx512", 300.0), ("avx2", 150.0))]  # fmt: skip
    lines = table.render([*newer, *RESULTS], "x").splitlines()
    assert lines[0] == "**B CPU, 2 cores, avx512 and avx2**, Linux, 2026-11-23"
    assert "| smollm2-135m | q4 (avx2) | tg64 | **150 (150–150)** |" in lines
    assert "| smollm2-135m | q4 (avx512) | tg64 | **300 (300–300)** |" in lines
    assert "| smollm2-135m | q4 | pp256 | **2775 (2775–2775)** | 1850 (1850–1850), 1.50× |" in lines


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


def test_the_gpu_table_is_that_of_the_results():
    """And the README has it."""
    from bench import cuda_table

    result = dict(run="2026-01-02T03:04", card="Card", shape="s", format="q4", samples=[1.0, 2.0, 3.0],
                  bandwidth_gb_s=4200.0, int8_tops=800.0)  # fmt: skip
    tests = [dict(result, test="decode", tok_s=1234.5, share=0.123), dict(result, test="x64", tok_s=9.0, share=0.5)]
    lines = cuda_table.render(tests, "file").splitlines()
    assert lines[0] == "**Card**" and lines[2] == "| model shape | weights | decode | x64 |"
    assert lines[4] == "| s | q4 | 1,234 (12.3%) | 9 (50.0%) |"
    assert "4.2 TB/s" in " ".join(lines) and "`file`" in " ".join(lines)
    assert subprocess.run([sys.executable, "-m", "bench.cuda_table", "--check"], cwd=table.ROOT).returncode == 0
