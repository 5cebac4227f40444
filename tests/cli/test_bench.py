"""`lepton bench` with an engine that only writes down what it is asked to do, and takes a known time."""

import csv
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest

from lepton_edge.cli import bench, limits, main
from lepton_edge.cli.limits import Limits
from lepton_edge.cli.shapes import SHAPES
from lepton_edge.models.registry import spec_from_config


class FakeEngine:
    """One millisecond for each forward and each token in it, on a clock of its own."""

    vocab, max_batch, threads, isa, format = 100, 64, 2, "avx2", "q4"
    program, device = SimpleNamespace(step_bytes=5_000_000), "cpu"
    can_truncate = True

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[tuple[int, int]] = []  # (first position, tokens)
        self.copies = 0
        self.cached: dict[int, int] = {}  # open slot -> its positions
        self.closed = False

    def open(self) -> int:
        slot = 7 + len(self.cached)
        self.cached[slot] = 0
        return slot

    def close_slot(self, slot: int) -> None:
        del self.cached[slot]

    def truncate(self, slot: int, length: int) -> None:
        assert length <= self.cached[slot]
        self.cached[slot] = length

    def forward(self, tokens, slots, positions, wanted):
        self.copies += 1
        self.step(tokens, slots, positions, wanted)

    def step(self, tokens, slots, positions, wanted):
        count = len(tokens)
        assert all(array.dtype == np.int32 for array in (tokens, slots, positions, wanted))
        assert count <= self.max_batch and tokens.min() >= 0 and tokens.max() < self.vocab
        self.calls.append((int(positions[0]), count))
        for slot in self.cached:
            (mine,) = np.nonzero(slots == slot)
            assert positions[mine].tolist() == list(range(self.cached[slot], self.cached[slot] + len(mine)))
            self.cached[slot] += len(mine)
        assert wanted.tolist() == [np.nonzero(slots == slot)[0][-1] for slot in self.cached]
        self.now += 0.001 * (1 + count)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def engine(monkeypatch) -> FakeEngine:
    fake = FakeEngine()
    monkeypatch.setattr(bench, "_engine", lambda arguments: fake)
    monkeypatch.setattr(bench, "time", SimpleNamespace(perf_counter=lambda: fake.now))
    monkeypatch.setattr(limits, "limits", lambda isa, threads, notify: Limits(10e9, 50e9, 20e9))
    return fake


def test_a_gpu_is_held_against_its_own_bandwidth(engine, capsys, monkeypatch) -> None:
    engine.device = "Some Card"
    monkeypatch.setattr("lepton_edge.runtime.cuda.limits.bandwidth", lambda: 20e9)
    _, tg = rows(capsys, "-p", "10", "-n", "2", "--device", "cuda")
    assert tg["cpu"] == "Some Card" and tg["bandwidth_gb_s"] == 20.0
    assert tg["bandwidth_share"] == pytest.approx(500 * 5e6 / 20e9)


def rows(capsys, *arguments: str) -> list[dict]:
    assert main(["bench", "--shape", "smollm2-135m", "-o", "json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_prompts_go_in_chunks_and_steps_singly(engine, capsys) -> None:
    pp, tg = rows(capsys, "-p", "100", "-n", "3", "-r", "2")
    assert engine.calls == [(0, 64), (64, 36)] * 3 + [(0, 1), (1, 1), (2, 1)] * 3
    assert engine.copies == 6, "single steps copy no logits"
    assert (pp["test"], pp["n"], pp["samples"]) == ("pp100", 100, [980.39, 980.39])  # 100 tokens in 102 ms
    assert (tg["test"], tg["n"], tg["samples"]) == ("tg3", 3, [500.0, 500.0])
    assert (tg["tok_s_mean"], tg["tok_s_stdev"]) == (500.0, 0.0)
    assert not engine.cached and engine.closed


def test_the_share_of_the_bandwidth_is_of_steps_only(engine, capsys) -> None:
    pp, tg = rows(capsys, "-p", "8", "-n", "8")
    assert (pp["bandwidth_share"], tg["bandwidth_share"]) == (None, 0.25)  # 500 steps of 5 MB at 10 GB/s
    assert tg["bandwidth_gb_s"] == 10.0
    assert (tg["model"], tg["format"], tg["threads"], tg["isa"]) == ("smollm2-135m", "q4", 2, "avx2")


def test_depth_is_filled_once_and_kept(engine, capsys) -> None:
    (tg,) = rows(capsys, "-p", "0", "-n", "2", "-d", "70", "-r", "1")
    assert tg["test"] == "tg2 @ d70"
    assert engine.calls == [(0, 64), (64, 6), (70, 1), (71, 1), (70, 1), (71, 1)]


def test_a_batch_takes_a_token_of_every_sequence_in_each_step(engine, capsys) -> None:
    pp, tg = rows(capsys, "-p", "8", "-n", "3", "-b", "4", "-d", "20", "-r", "1")
    assert [pp["test"], tg["test"]] == ["pp8 @ d20", "tg3 x4 @ d20"]
    assert engine.calls == [(0, 20)] + [(20, 8)] * 2 + [(0, 64), (16, 16)] + [(20, 4), (21, 4), (22, 4)] * 2
    assert (tg["n"], tg["samples"]) == (3, [800.0])  # 12 tokens in 15 ms
    assert tg["bandwidth_share"] == 0.1  # 200 steps of 5 MB at 10 GB/s
    assert not engine.cached


@pytest.mark.parametrize("batch", ["0", "65"])
def test_a_batch_that_no_step_takes_is_an_error(engine, capsys, batch: str) -> None:
    assert main(["bench", "-b", batch]) == 2
    assert "1 to 64" in capsys.readouterr().err


def test_markdown_fits_80_columns(engine, capsys) -> None:
    assert main(["bench", "--shape", "smollm2-135m", "-d", "4096"]) == 0
    lines = capsys.readouterr().out.rstrip("\n").split("\n")
    assert lines[-1] == "| smollm2-135m | q4 | 5.0 MB | tg64 @ d4096 | 500.00 ± 0.00 | 25% |"
    assert max(map(len, lines[1:])) <= 80


def test_csv(engine, capsys) -> None:
    assert main(["bench", "--shape", "smollm2-135m", "-o", "csv"]) == 0
    pp, tg = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (pp["test"], pp["bandwidth_share"]) == ("pp256", "")
    assert (tg["test"], tg["tok_s_mean"], tg["weight_bytes"]) == ("tg64", "500.0", "5000000")


@pytest.mark.parametrize("flags", [["-r", "0"], ["-p", "0", "-n", "0"]])
def test_nothing_to_measure_is_an_error(engine, capsys, flags: list[str]) -> None:
    assert main(["bench", *flags]) == 2
    assert "nothing to measure" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("smollm2-135m", 134_515_008), ("qwen2.5-0.5b", 494_032_768), ("llama-3.2-1b", 1_235_814_400)],
)
def test_the_shapes_have_the_published_sizes(name: str, parameters: int) -> None:
    spec = spec_from_config(SHAPES[name], name)
    assert sum(int(np.prod(shape)) for shape in spec.tensors().values()) == parameters
