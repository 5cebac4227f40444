"""What a batch must be: the check that every executor makes."""

import numpy as np
import pytest

from lepton_edge.errors import ContextLengthError, RequestError
from lepton_edge.program.batch import read_batch

LENGTHS = {0: 0, 3: 5}


def check(tokens, slots, positions, wanted):
    return read_batch(tokens, slots, positions, wanted, vocab=10, context=8, lengths=LENGTHS)


def test_a_good_batch_becomes_int64_arrays():
    given = ([9, 0, 1, 2], np.array([3, 0, 3, 0], np.int32), np.array([5, 0, 6, 1], np.uint8), range(1, 3))
    for found, values in zip(check(*given), given, strict=True):
        assert found.dtype == np.int64 and found.tolist() == list(values)


def test_an_empty_batch_is_good():
    assert [a.size for a in check([], [], [], [])] == [0] * 4


@pytest.mark.parametrize(
    "tokens,slots,positions,wanted,message",
    [
        ([10], [0], [0], [], "token ids from 10 to 10: expected 0 to 9"),
        ([1, -1], [0, 0], [0, 1], [], "token ids from -1 to 1"),
        ([1 << 40], [0], [0], [], "token ids from 1099511627776"),
        (np.array([2**63 + 5], np.uint64), [0], [0], [], "token ids from -"),
        ([1], [0, 0], [0, 1], [], "1 tokens, 2 slots, 2 positions"),
        ([1, 2], [0, 0], [0], [], "2 tokens, 2 slots, 1 positions"),
        ([1], [1], [0], [], r"sequence 1 is not open; open are \[0, 3\]"),
        ([1], [-1], [0], [], "sequence -1 is not open"),
        ([1], [0], [1], [], "sequence 0 has 0 positions; expected tokens at 0, 1"),
        ([1], [3], [4], [], "sequence 3 has 5 positions"),
        ([1, 2], [0, 0], [0, 2], [], "sequence 0 has 0 positions"),
        ([1, 2], [0, 0], [1, 0], [], "sequence 0 has 0 positions"),
        ([1, 2], [0, 0], [0, 0], [], "sequence 0 has 0 positions"),
        ([1, 2], [0, 3], [0, 1], [], "sequence 3 has 5 positions"),
        ([1], [0], [0], [1], "wanted: expected rising indices from 0 to 0"),
        ([1, 2], [0, 0], [0, 1], [-1, 1], "wanted"),
        ([1, 2], [0, 0], [0, 1], [1, 1], "wanted"),
        ([1, 2], [0, 0], [0, 1], [1, 0], "wanted"),
        ([], [], [], [0], "wanted"),
        ([1.0], [0], [0], [], r"tokens: float64 of shape \[1\]; expected a list of integers"),
        ([True], [0], [0], [], "tokens: bool"),
        ([1], [0], [[0]], [], r"positions: int64 of shape \[1, 1\]"),
        (1, [0], [0], [], r"tokens: int64 of shape \[\]"),
        ([1], ["0"], [0], [], "slots: <U1"),
    ],
)
def test_a_bad_batch_is_refused(tokens, slots, positions, wanted, message):
    with pytest.raises(RequestError, match=message):
        check(tokens, slots, positions, wanted)


def test_past_the_context():
    with pytest.raises(ContextLengthError, match="sequence 3 would have 9 tokens; the context has 8"):
        check([1] * 4, [3] * 4, [5, 6, 7, 8], [])
    check([1] * 3, [3] * 3, [5, 6, 7], [])
