"""Engine.step: the summary of several sequences' logits, in the engine's own memory."""

import numpy as np
import pytest
from engines import ODD, PLAIN, decoder, feed, load, tokens

from lepton_edge.errors import RequestError
from lepton_edge.program.summary import summarise

WIDE = decoder(32, 48, 2, 1, 16, 5000)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("spec", [ODD, WIDE], ids=["odd", "wide"])
def test_summary_of_a_batch(spec, threads):
    """Two sequences in one step, three wanted tokens, each with a temperature of its own."""
    engine, other = load(spec, threads=threads), load(spec)
    ids, slots, positions = tokens(9, spec), [0, 0, 0, 0, 1, 1, 1, 1, 1], [*range(4), *range(5)]
    for each in (engine, other):
        assert [each.open(), each.open()] == [0, 1]
    expected = other.forward(ids, slots, positions, [3, 7, 8])
    found = engine.step(ids, slots, positions, [3, 7, 8], [1.0, 0.5, 3.0])
    assert np.array_equal(found.logits, expected) and engine.length(0) == 4 and engine.length(1) == 5
    exact = summarise(expected, [1.0, 0.5, 3.0])
    assert np.array_equal(found.ids, exact.ids) and np.array_equal(found.values, exact.values)
    # As in tests/kernels/test_summary.py; these logits are within 20 of each other.
    np.testing.assert_allclose(found.sums, exact.sums, rtol=2e-5)
    np.testing.assert_allclose(found.heated, exact.heated, rtol=3e-5)
    assert found.heated[1] < found.sums[1] and found.heated[2] > found.sums[2]
    # A temperature does not stay.
    again = engine.step([1, 2], [0, 1], [4, 5], [0, 1])
    assert np.array_equal(again.heated, again.sums)


def test_step_and_forward_can_alternate():
    engine, ids = load(PLAIN), tokens(20, PLAIN)
    expected, slot = feed(engine, engine.open(), ids), engine.open()
    for i, token in enumerate(ids):
        batch = [token], [slot], [i], [0]
        logits = engine.forward(*batch) if i % 2 else engine.step(*batch).logits
        assert np.allclose(logits, expected[i], rtol=1e-4, atol=1e-4)
    assert engine.step([], [], [], []).logits.shape == (0, 96)


def test_the_summary_is_not_copied():
    engine = load(PLAIN)
    slot = engine.open()
    first = engine.step([1], [slot], [0], [0])
    before = first.values.copy()
    second = engine.step([2], [slot], [1], [0])
    assert np.array_equal(first.values, second.values) and not np.array_equal(before, second.values)


def test_refused_steps_change_nothing():
    engine = load(PLAIN, context=256)
    slot = engine.open()
    with pytest.raises(RequestError, match="65 tokens, 65 wanted: a step takes at most 512 and 64"):
        engine.step([1] * 65, [slot] * 65, range(65), range(65))
    for temperatures in ([], [0.0], [float("nan")], [1.0, 1.0]):
        with pytest.raises(RequestError, match="temperatures: expected 1 numbers above 0"):
            engine.step([1], [slot], [0], [0], temperatures)
    with pytest.raises(RequestError, match="token ids"):
        engine.step([96], [slot], [0], [0])
    assert engine.length(slot) == 0
