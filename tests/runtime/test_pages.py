"""The cache's memory: pages as sequences grow, given back when they are cut or closed."""

import sys

import numpy as np
import pytest
from engines import decoder, feed, load, tokens
from processes import run_python

from lepton_edge.errors import RequestError
from lepton_edge.kernels.layout import PAGE
from lepton_edge.runtime.pages import HostPages

# A page of 1 MiB in f16, 256 MiB for all of the context; the windows make long sequences quick.
LONG = decoder(64, 96, 8, 8, 64, 96, windows=(16,) * 4, context=32_768)
MIB = 1 << 20


def test_pages_follow_the_length():
    pages = HostPages(1000, 1000, 3)
    first, second = pages.open(), pages.open()
    assert pages.nbytes == 0
    for positions, count in ((1, 1), (PAGE, 1), (PAGE + 1, 2), (5, 2), (4 * PAGE, 4)):
        pages.reserve(first, positions)
        assert pages.nbytes == count * 1000
    addresses = pages.table[first, :4].tolist()
    assert len(set(addresses)) == 4 and all(address % 64 == 0 for address in addresses)
    pages.lengths[first] = 4 * PAGE
    # A cut keeps the page that it goes through, and no other; what was given back is used first.
    for length, kept in ((3 * PAGE + 1, 4), (3 * PAGE, 3), (PAGE + 1, 2), (PAGE, 1), (1, 1), (0, 0)):
        pages.truncate(first, length)
        assert pages.lengths[first] == length and len(pages._held[first]) == kept
    pages.reserve(second, 3 * PAGE)
    assert set(pages.table[second, :3]) < set(addresses) and pages.nbytes == 4000
    pages.close(second)
    assert pages.nbytes == 4000
    pages.reserve(first, 6 * PAGE)
    assert set(pages.table[first, :6]) > set(addresses) and len(set(pages.table[first, :6])) == 6
    assert pages.nbytes == 6000


def test_wrong_lengths_change_nothing():
    pages = HostPages(1000, 1000, 1)
    slot = pages.open()
    pages.reserve(slot, 300)
    pages.lengths[slot] = 300
    for length in (-1, 301):
        with pytest.raises(RequestError, match=f"cannot truncate to {length}: sequence 0 has 300"):
            pages.truncate(slot, length)
    assert pages.lengths[slot] == 300 and len(pages._held[slot]) == 3


def test_a_long_context_takes_memory_as_it_is_used():
    engine, ids = load(LONG, kv_dtype="f16"), tokens(20 * PAGE, LONG)
    assert engine.program.page_bytes == MIB and engine.context == 256 * PAGE
    slots = [engine.open() for _ in range(256)]
    assert engine.cache_bytes == 0
    for count in (1, PAGE, 1, 600, 20 * PAGE - 602 - PAGE):
        feed(engine, slots[7], ids[:count], wanted=[])
        assert engine.cache_bytes == -(-engine.length(slots[7]) // PAGE) * MIB
    assert engine.cache_bytes == 20 * MIB


# In a process of its own: what earlier tests have freed would be used again.
PROGRAM = """
from processes import resident
from runtime.test_pages import *

load(LONG, kv_dtype="f16")  # LLVM, and the code of the kernels
marks = [resident()]
engine, ids = load(LONG, kv_dtype="f16"), tokens(20 * PAGE, LONG)
first = engine.open()
feed(engine, first, ids[: 8 * PAGE], wanted=[])
marks.append(resident())
feed(engine, first, ids[8 * PAGE :], wanted=[])
marks.append(resident())
# Closed, or cut: the next sequence takes the same memory.
engine.close_slot(first)
second, third = engine.open(), engine.open()
feed(engine, second, ids, wanted=[])
engine.truncate(second, 3 * PAGE - 1)
feed(engine, third, ids[: 17 * PAGE], wanted=[])
print(engine.cache_bytes / MIB, *np.diff([*marks, resident()]) / MIB)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_process_grows_with_the_pages_that_are_used():
    pages, loaded, grown, again = map(float, run_python("-c", PROGRAM).split())
    assert pages == 20
    # Beside 8 of 256 pages: weights of 0.7 MB, activations of a step, angles, and what Python needs for them; 6 here,
    # but systems that hand out memory in units of 2 MiB give more.  Beside 12 more pages: angles, 0.8 here.
    assert loaded < 8 + 24 and grown < 12 + 4 and again < 1


def test_a_sequence_that_was_cut_shares_nothing():
    """Another one takes its pages, and both go on as if each were alone."""
    engine, ids, others = load(LONG), tokens(700, LONG), tokens(600, LONG, seed=1)
    expected, alone = (feed(engine, engine.open(), each) for each in (ids, others))
    cut = engine.open()
    feed(engine, cut, np.concatenate([ids[:300], others[:300]]), wanted=[])
    engine.truncate(cut, 300)
    size, other = engine.cache_bytes, engine.open()
    found = feed(engine, other, others)
    assert engine.cache_bytes == size + 3 * engine.program.page_bytes
    assert np.array_equal(found, alone)
    assert np.allclose(feed(engine, cut, ids[300:]), expected[300:], rtol=1e-4, atol=1e-4)
