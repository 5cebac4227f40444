"""What the programs for Python peers measure: llama-bench's tests, each after a warm-up."""

import json
from types import SimpleNamespace

import pytest

from bench.engines import Reading, parse_rows
from bench.peers import protocol


class Model:
    """One millisecond for each token that is fed, two for each step, and far more for the first few of either.

    What it is asked to do is written down.
    """

    version, vocab = "1.2", 100

    def __init__(self, clock) -> None:
        self.clock = clock
        self.calls: list[tuple[str, int]] = []

    def reset(self, room: int) -> None:
        self.calls.append(("reset", room))
        self.clock.now += 5.0

    def feed(self, tokens: list[int]) -> None:
        assert all(0 <= token < self.vocab for token in tokens)
        self.calls.append(("feed", len(tokens)))
        self._take("feed", 0.001 * len(tokens))

    def step(self) -> None:
        self.calls.append(("step", 1))
        self._take("step", 0.002)

    def _take(self, what: str, seconds: float) -> None:
        cold = sum(call == what for call, _ in self.calls) <= (1 if what == "feed" else 3)
        self.clock.now += seconds + cold


@pytest.fixture
def model(monkeypatch) -> Model:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(protocol, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return Model(clock)


def test_prompts_and_steps_are_timed_alone_after_a_warm_up(model) -> None:
    pp, tg = protocol.measure(model, prompt=16, new=2, depth=0, repeat=1)
    assert model.calls == [("reset", 16), ("feed", 16)] * 2 + [("reset", 4), ("feed", 1), *[("step", 1)] * 3] * 2
    assert (pp["test"], tg["test"]) == ("pp16", "tg2")
    assert (pp["samples"], tg["samples"]) == (pytest.approx([1000.0]), pytest.approx([500.0]))


def test_depth_is_filled_before_the_clock_starts(model) -> None:
    pp, tg = protocol.measure(model, prompt=16, new=2, depth=30, repeat=3)
    assert model.calls[:3] == [("reset", 46), ("feed", 30), ("feed", 16)]
    assert model.calls[-5:] == [("reset", 33), ("feed", 30), *[("step", 1)] * 3]
    assert (pp["test"], tg["test"]) == ("pp16 @ d30", "tg2 @ d30")
    assert (pp["samples"], tg["samples"]) == (pytest.approx([1000.0] * 3), pytest.approx([500.0] * 3))


def test_the_answer_is_read_by_bench_e2e(model, monkeypatch, capsys) -> None:
    loaded = []
    flags = ["--shape", "small", "-p", "8", "-n", "0", "-d", "0", "-r", "1", "-t", "3", "-o", "json"]
    monkeypatch.setattr("sys.argv", ["peer", *flags])
    protocol.main(lambda what, threads: loaded.append((what, threads)) or model, "shape")
    text = capsys.readouterr().out
    assert loaded == [("small", 3)]
    assert parse_rows(text) == Reading("1.2", {"pp8": json.loads(text)[0]["tok_s_mean"]})
