"""Beam search where transformers' golden ids do not reach: when it ends, and what rules forbid."""

import numpy as np
import pytest

from lepton_edge.errors import RequestError
from lepton_edge.generate.beams import NEVER, Beams, largest, log_softmax
from lepton_edge.generate.rules import Rules

ENDS = frozenset([2])


@pytest.mark.parametrize(
    ("early", "penalty", "expected"),
    [(False, 1.0, False), ("never", 1.0, True), ("never", 0.0, False), (True, 1.0, False)],
)  # fmt: skip
def test_when_a_running_beam_may_still_win(early, penalty, expected) -> None:
    """Scores of -4 after two tokens against finished ones of -1: better only if a hundred tokens may share the -4."""
    beams = Beams(Rules(ENDS, 100), 2, [0], penalty, early)
    beams.best = [([0, 2], -1.0, True)] * 2
    beams.scores[:] = -4.0
    beams._look_ahead(2, False)
    assert beams.open is expected


def test_two_beams_by_hand() -> None:
    """The likeliest first token leads nowhere: the text that begins with the second one wins."""
    beams = Beams(Rules(ENDS, 2), 2, [0])
    first = np.log(np.array([[0.1, 0.5, 1e-9, 0.4]], np.float32))
    assert beams.advance(np.repeat(first, 2, axis=0)) == [0, 0]
    assert beams.running == [[0, 1], [0, 3]] and beams.open
    second = np.log(np.array([[0.3, 0.3, 0.2, 0.2], [0.01, 0.01, 0.97, 0.01]], np.float32))
    beams.advance(second)
    assert beams.result == [3, 2] and not beams.open
    assert beams.best[0][1] == pytest.approx(np.log(0.4 * 0.97) / 2, rel=1e-4)


def test_log_softmax_of_large_numbers() -> None:
    assert np.allclose(np.exp(log_softmax(np.array([[1e4, 1e4, -1e9]], np.float32))), [[0.5, 0.5, 0.0]])


@pytest.mark.parametrize(
    ("rules", "ids", "forbidden"),
    [
        (dict(no_repeat=2), [0, 1, 3, 1], [3]),
        (dict(no_repeat=1), [0, 1], [0, 1]),
        (dict(bad=((1,), (3, 4))), [0, 3], [1, 4]),
        (dict(bad=((1,), (3, 4))), [0, 4], [1]),
        (dict(least=3), [0, 1, 1], [2]),
        (dict(least=3), [0, 1, 1, 1], []),
        (dict(forced_first=3), [0], [0, 1, 2, 4]),
        (dict(forced_last=2), [0, 1, 1, 1], [0, 1, 3, 4]),
        (dict(suppressed=(4,)), [0, 1], [4]),
    ],
)
def test_what_rules_forbid(rules, ids, forbidden) -> None:
    scores = np.zeros(5, np.float32)
    Rules(ENDS, 4, **rules).apply(ids, scores)
    assert np.flatnonzero(scores == -np.inf).tolist() == forbidden
    assert -np.inf < NEVER


def test_rules_that_leave_no_token() -> None:
    with pytest.raises(RequestError, match="no token may follow"):
        Rules(ENDS, 4, forced_first=4, suppressed=(4,)).apply([0], np.zeros(5, np.float32))


@pytest.mark.parametrize("size", [1, 7, 255, 256, 5000, 70_001])
@pytest.mark.parametrize("values", ["few", "many", "one"])
def test_the_largest_are_those_of_a_stable_sort(size: int, values: str) -> None:
    """With many equal ones, with what rules have ruled out, with more asked for than there are blocks."""
    random = np.random.default_rng(size)
    found = random.standard_normal(size).astype(np.float32)
    if values == "few":
        found = random.integers(0, 3, size).astype(np.float32)
    elif values == "one":
        found[random.permutation(size)[1:]] = -np.inf
    for count in (1, 2, 8, 300):
        assert np.array_equal(largest(found, count), np.argsort(-found, kind="stable")[:count])
