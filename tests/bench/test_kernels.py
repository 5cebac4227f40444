"""bench.kernels: small engines measured for real, and what is made of their times; no speed is asserted."""

import json
import sys
from argparse import Namespace

import pytest
from engines import PLAIN

from bench import kernels
from bench.kernels import Measurement, render, with_layers
from lepton_edge.cli import limits
from lepton_edge.cli.shapes import SHAPES
from lepton_edge.kernels.machine import available
from lepton_edge.kernels.ops import CACHES, PACKED
from lepton_edge.kernels.ops import PLAIN as PLAIN_FORMATS
from lepton_edge.models.registry import spec_from_config
from lepton_edge.models.spec import ModelSpec
from lepton_edge.runtime.profile import OpTime

FACTS = dict(run="2026-11-23T08:00:00+00:00", host="vm", cpu="A CPU", cores=2, system="Linux", commit="abc1234")


@pytest.fixture
def small_probes(monkeypatch):
    monkeypatch.setattr(limits, "SIZE", 1 << 20)
    monkeypatch.setattr(limits, "INT8", 1e6)
    monkeypatch.setattr(limits, "F32", 1e6)


@pytest.fixture
def found(small_probes, monkeypatch):
    """Every format and cache of a small model."""
    monkeypatch.setattr(kernels, "tests", lambda depth: (kernels.Test("1 token", 1, 1), kernels.Test("8 tokens", 8, 1),
                        kernels.Test("prefill", 1, 20), kernels.Test(f"@ {depth}", 1, 1, depth)))  # fmt: skip
    args = Namespace(threads=1, isa=available()[0], depth=30, rounds=3, steps=2)
    return kernels.measure("plain", PLAIN, FACTS, args)


def test_every_format_and_every_cache_is_measured(found):
    cases = {(one.op, one.part, one.test): one for one in found}
    assert len(cases) >= len(found) - 30, "only small operations are measured for two formats"
    for format in (*PLAIN_FORMATS, *PACKED):
        for test, tokens in (("1 token", 1), ("8 tokens", 8), ("prefill", 20)):
            packed = format in PACKED  # gate and up are one operation
            one = cases[(f"gated_{format}", "gate up", test) if packed else (f"matmul_{format}", "gate", test)]
            assert (one.format, one.operations) == (format, tokens * 2 * 96 * 64 * (1 + packed))
            assert len(one.samples) == 3 and min(one.samples) > 0 and one.barrier >= 0
            assert (f"embed_{format}", "embed", test) in cases
            assert ((f"matmul_{format}", "head", test) in cases) == (test != "prefill")
    for cache in CACHES:
        deep = cases[f"attention_{cache}", "", "@ 30"]
        # Positions 30 and 31 see 31 and 32: the median of steps, of rounds that are alike.
        assert (deep.cache, deep.operations) == (cache, 31.5 * 4 * 4 * 16)
        assert cases[f"attention_{cache}", "", "prefill"].operations == 20 * 21 / 2 * 4 * 4 * 16
        assert (f"attention_{cache}", "", "1 token") not in cases
    assert {one.format for one in found if one.op == "rms_norm"} == {PLAIN_FORMATS[0], PACKED[0]}


def measurement(**change):
    case = dict(isa="avx2", threads=2, shape="smollm2-135m", format="bf16", cache="f16", test="prefill 512")
    time = dict(op="matmul_bf16", part="down", nbytes=2e6, operations=1e9, samples=(0.02, 0.01, 0.04), barrier=0.001)
    machine = dict(read=20e9, int8=500e9, f32=100e9, read_one=15e9, others=0.0)
    return Measurement(**{**FACTS, **case, **time, **machine, **change})


def test_a_measurement_is_held_against_its_limit():
    one = measurement()
    assert (one.seconds, one.reached) == (0.02, 0.5)  # 1e9 operations at 100e9 a second: 10 ms
    assert measurement(operations=0.0).reached is None
    row = json.loads(one.line())
    assert (row["seconds"], row["gb_s"], row["gops"], row["reached"]) == (0.02, 0.1, 50.0, 0.5)
    assert row["samples"] == [0.02, 0.01, 0.04] and row["part"] == "down"


def test_the_table_fits_80_columns():
    lines = render([measurement(), measurement(op="rms_norm", part="final_norm", operations=0.0)]).split("\n")
    assert max(map(len, lines)) <= 80
    assert lines[2].split() == ["matmul_bf16", "down", "prefill", "512", "bf16", "20000.0", "0.1", "50.0", "5%", "50%"]
    assert lines[-1].endswith("20.0 GB/s (one: 15.0), 500 GOPS on int8, 100 on f32")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("format", ["f32", "q4"])
def test_as_many_layers_as_no_cache_holds(shape, format):
    spec = spec_from_config(SHAPES[shape], shape)
    few = with_layers(spec, format)

    def size(layers: ModelSpec) -> float:
        shapes = [shape for shape in layers.tensors().values() if len(shape) == 2 and spec.vocab not in shape]
        return sum(kernels.get_format(format).nbytes(*shape) for shape in shapes)

    assert few.layers == spec.layers[: len(few.layers)]
    fewer = size(few) * (len(few.layers) - 1) / len(few.layers)
    assert few.layers == spec.layers or size(few) >= 128e6 > fewer


def test_times_are_of_one_row():
    assert kernels.per_row(OpTime("swiglu", "", 4, 8.0, 2.0, 400.0, 40.0)) == OpTime("swiglu", "", 1, 2.0, 0.5, 100, 10)


def test_quick_writes_what_it_prints(small_probes, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(kernels, "SHAPES", {"plain": {}})
    monkeypatch.setattr(kernels, "spec_from_config", lambda config, name: PLAIN)
    monkeypatch.setattr(kernels, "tests", lambda depth: (kernels.Test("1 token", 1, 1), kernels.Test("@", 1, 1, 9)))
    monkeypatch.setattr(sys, "argv", ["bench.kernels", "--quick", "-t", "1", "--out", str(tmp_path / "a" / "k.jsonl")])
    assert kernels.main() == 0
    rows = [json.loads(line) for line in (tmp_path / "a" / "k.jsonl").read_text().splitlines()]
    out = capsys.readouterr().out
    assert all(len(row["samples"]) == 1 and row["shape"] == "plain" for row in rows)
    assert sum(line.startswith("matmul_") for line in out.split("\n")) == sum(row["op"][:6] == "matmul" for row in rows)


def test_unknown_shapes_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench.kernels", "gpt-5"])
    with pytest.raises(SystemExit):
        kernels.main()
    assert "unknown shape gpt-5" in capsys.readouterr().err
