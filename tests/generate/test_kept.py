"""What stays in the cache between conversations' turns."""

import numpy as np
import pytest
from fake_engine import FakeEngine

from lepton_edge.errors import Cancelled
from lepton_edge.generate.kept import KeptSequences, shared_length
from lepton_edge.generate.shared import SharedEngine

NOTHING = np.empty(0, np.int32)


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int32)


@pytest.mark.parametrize(
    ("tokens", "prompt", "length"),
    [([], [], 0), ([1, 2], [1, 2], 2), ([1, 2, 3], [1, 2], 2), ([1, 2], [1, 2, 3], 2), ([1, 5, 3], [1, 2, 3], 1),
     ([4], [5], 0)],
)  # fmt: skip
def test_shared_length(tokens: list[int], prompt: list[int], length: int) -> None:
    assert shared_length(tokens, ids(*prompt)) == length


def test_the_longest_beginning_is_taken_once() -> None:
    kept = KeptSequences(100)
    assert kept.put(7, [1, 2, 3]) == kept.put(8, [1, 2, 3, 4, 5]) == kept.put(9, [6, 6]) == []
    assert kept.take(ids(1, 2, 3, 4, 9, 9)) == (8, [1, 2, 3, 4])
    assert kept.take(ids(1, 2, 3, 4, 9, 9)) == (7, [1, 2, 3])
    assert kept.take(ids(1, 2, 3, 4, 9, 9)) is None


def test_a_token_is_left_to_compute() -> None:
    kept = KeptSequences(100)
    kept.put(7, [1, 2, 3])
    assert kept.take(ids(1, 2, 3)) == (7, [1, 2])


def test_a_short_question_does_not_take_a_long_conversation() -> None:
    kept = KeptSequences(100)
    kept.put(7, [1, *range(10, 30)])
    assert kept.take(ids(1, 2, 3, 4)) is None
    assert kept.take(ids(1, 10, 3)) == (7, [1, 10])


def test_the_oldest_go_where_there_are_too_many_or_too_long_ones() -> None:
    kept = KeptSequences(10)
    assert kept.put(1, [1] * 4) == kept.put(2, [2] * 4) == []
    assert kept.put(3, [3] * 4) == [1]
    assert kept.put(4, [4] * 10) == [2, 3]
    short = KeptSequences(100)
    assert [slot for number in range(12) for slot in short.put(number, [number])] == [0, 1, 2, 3]


def feed(sequence, *numbers: int) -> None:
    sequence.feed(ids(*numbers), NOTHING)


def test_a_sequence_comes_back_with_what_both_begin_with() -> None:
    engine = FakeEngine.chain(1, 2, 3, vocab=8)
    shared = SharedEngine(engine)
    first = shared.begin(keep=True)
    first.open(ids(1, 2, 3, 4))
    assert first.length == 0
    feed(first, 1, 2, 3)
    slot = first.slot
    first.close()
    second = shared.begin(keep=True)
    second.open(ids(1, 2, 5, 6))
    assert (second.slot, second.tokens, engine.slots[slot]) == (slot, [1, 2], [1, 2])
    other = shared.begin(keep=True)
    other.open(ids(1, 2, 5, 6))
    assert other.length == 0 and other.slot != slot
    other.close()
    assert list(engine.slots) == [slot]


def test_others_are_not_kept() -> None:
    engine = FakeEngine.chain(1, 2, 3, vocab=8)
    shared = SharedEngine(engine)
    sequence = shared.begin()
    sequence.open(ids(1, 2))
    feed(sequence, 1)
    sequence.close()
    assert engine.slots == {}


def test_what_is_dropped_is_freed() -> None:
    engine = FakeEngine.chain(1, 2, 3, vocab=8, context=4)
    shared = SharedEngine(engine)
    for number in (4, 5, 6):
        sequence = shared.begin(keep=True)
        sequence.open(ids(number, 1))
        feed(sequence, number, 1)
        sequence.close()
    assert list(engine.slots.values()) == [[5, 1], [6, 1]]
    shared.close()


def test_a_model_that_cannot_go_back_computes_all_of_it_again() -> None:
    engine = FakeEngine.chain(1, 2, 3, vocab=8)
    engine.can_truncate = False
    shared = SharedEngine(engine)
    lengths = []
    for prompt in ([1, 2, 3], [1, 2, 3, 4], [1, 2, 5, 6]):
        sequence = shared.begin(keep=True)
        sequence.open(ids(*prompt))
        lengths.append(sequence.length)
        feed(sequence, *prompt[sequence.length :])
        assert engine.slots[sequence.slot] == prompt
        sequence.close()
    assert lengths == [0, 3, 0]


def test_a_cancelled_step_leaves_what_was_finished() -> None:
    engine = FakeEngine.chain(1, 2, 3, vocab=8)
    shared = SharedEngine(engine)
    sequence = shared.begin(keep=True)
    sequence.open(ids(1, 2, 3))
    feed(sequence, 1, 2)
    shared.cancel()
    with pytest.raises(Cancelled):
        feed(sequence, 3)
    sequence.close()
    following = shared.begin(keep=True)
    following.open(ids(1, 2, 3))
    assert following.tokens == [1, 2]
