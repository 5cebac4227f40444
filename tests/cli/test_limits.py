"""The machine's limits: real probes on few bytes, and which of their samples count."""

import pytest

from lepton_edge.cli import limits
from lepton_edge.cli.limits import Limits, Probes
from lepton_edge.kernels.machine import available


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("isa", available())
def test_samples_are_plausible(isa: str, threads: int, monkeypatch) -> None:
    """Between a slow board and more than any machine does: wrong units are at least a thousand off."""
    monkeypatch.setattr(limits, "SIZE", 8 << 20)
    monkeypatch.setattr(limits, "INT8", 1e7)
    monkeypatch.setattr(limits, "F32", 1e7)
    probes = Probes(isa, threads)
    sample = probes.sample()
    probes.close()
    for rate in (sample.read, sample.int8, sample.f32):
        assert 1e7 < rate < 1e14


def test_the_best_sample_of_each_counts(monkeypatch) -> None:
    class Fake:
        closed = False

        def __init__(self, isa, threads, notify):
            assert (isa, threads) == ("generic", 3)
            self.left = iter([Limits(1, 6, 3), Limits(2, 5, 4), *[Limits(1, 1, 1)] * (limits.SAMPLES - 2)])

        def sample(self):
            return next(self.left)

        def close(self):
            Fake.closed = True

    monkeypatch.setattr(limits, "Probes", Fake)
    assert limits.limits("generic", 3) == Limits(2, 6, 4)
    assert Fake.closed
