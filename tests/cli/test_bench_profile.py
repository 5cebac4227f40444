"""`lepton bench --profile`: what is made of an engine's times, and one real run."""

import json
from types import SimpleNamespace

import pytest

from lepton_edge.cli import bench_profile, limits, main
from lepton_edge.cli.limits import Limits
from lepton_edge.runtime.profile import OpTime

MACHINE = Limits(read=20e9, int8=500e9, f32=100e9)
RUN = dict(model="m", format="q4", threads=2, isa="avx2", test="tg8")
OPS = [
    OpTime("matmul_q4", "gate", 30, 1000e-6, 50e-6, 10e6, 20e6),  # 500 us to read
    OpTime("rms_norm", "attn_norm", 30, 200e-6, 150e-6, 100e3, 0.0),
    OpTime("attention_f16", "", 30, 900e-6, 10e-6, 1e6, 80e6),  # 800 us to compute
]


def lines(ops=OPS, seconds=2500e-6):
    return bench_profile.lines(SimpleNamespace(ops=lambda: ops), seconds, MACHINE, **RUN)


def test_the_largest_loss_comes_first():
    found = lines()
    assert [(line.op, line.part, line.loss_us) for line in found] == [
        ("matmul_q4", "gate", 500.0),
        ("outside", "", 400.0),
        ("rms_norm", "attn_norm", 200.0),
        ("attention_f16", "", 100.0),
    ]
    gate = found[0]
    assert (gate.us, gate.share, gate.gb_s, gate.gops, gate.barrier_us) == (1000.0, 0.4, 10.0, 20.0, 50.0)
    assert sum(line.share for line in found) == pytest.approx(1)


@pytest.mark.parametrize(
    ("op", "nbytes", "operations", "seconds"),
    [
        ("matmul_q4", 1e6, 1e9, 2e-3),  # int8
        ("matmul_q8", 1e9, 1e9, 50e-3),  # memory
        ("matmul_bf16", 1e6, 1e9, 10e-3),  # f32
        ("attention_q8", 1e6, 1e9, 10e-3),  # f32, whatever the cache holds
        ("swiglu", 1e9, 0.0, 0.0),
    ],
)
def test_the_limit_is_memory_or_arithmetic(op, nbytes, operations, seconds):
    time = OpTime(op, "", 1, 1.0, 0.0, nbytes, operations)
    assert bench_profile.least_seconds(time, MACHINE) == pytest.approx(seconds)


def test_the_table_fits_80_columns_and_ends_in_the_limit():
    large = [OpTime("matmul_bf16", "final_norm", 128, 9.9, 1.2, 2e9, 1e12), *OPS]
    text = bench_profile.render([*lines(), *lines(large, 10.0)])
    assert max(map(len, text.split("\n"))) <= 80
    rows = text.split("\n")
    assert rows[2].split() == ["matmul_q4", "gate", "30", "40.0%", "1000.0", "10.0", "20.0", "50.0", "500.0"]
    first = bench_profile.render(lines()).split("\n")
    assert first[-2].split() == ["sum", "90", "2500.0", "210.0", "1200.0"]
    assert first[-1] == "20.0 GB/s, 500 GOPS on int8 and 100 on f32 allow 1300.0 us: 52% reached"


@pytest.mark.parametrize("output", ["md", "json", "csv"])
def test_a_real_run(output, capsys, monkeypatch):
    monkeypatch.setattr(limits, "limits", lambda isa, threads, notify: MACHINE)
    assert main(["bench", "--profile", "-p", "5", "-n", "2", "-b", "3", "-r", "2", "-t", "2", "-o", output]) == 0
    out = capsys.readouterr().out
    if output == "json":
        rows = json.loads(out)
        assert [row["test"] for row in rows if row["op"] == "outside"] == ["pp5", "tg2 x3"]
        heads = [row for row in rows if (row["op"], row["part"]) == ("matmul_q8", "head")]
        assert len(heads) == 2 and all(row["rows"] == 1 and row["us"] > 0 for row in heads)
        for test in ("pp5", "tg2 x3"):
            assert sum(row["share"] for row in rows if row["test"] == test) == pytest.approx(1, abs=0.01)
    elif output == "csv":
        assert out.startswith("model,format,threads,isa,test,op,part,rows,share,us,")
    else:
        assert out.count("% reached") == 2
