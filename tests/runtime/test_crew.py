"""How many threads steps get, by the time that they lose; the clock is ours."""

import itertools

import numpy as np
import pytest
from engines import WINDOWS, feed, load, tokens

from lepton_edge.runtime.crew import Crew

STEP = 0.01  # s


def run(crew: Crew, losing, seconds: float, start: float = 0.0) -> list[int]:
    """The threads of each step while `losing(threads)` is lost in each."""
    used = []
    for i in range(int(seconds / STEP)):
        used.append(crew.threads)
        crew.report(losing(crew.threads), start + i * STEP)
    return used


def test_all_threads_while_nothing_is_lost():
    assert run(Crew(4), lambda n: 0.2, 10) == [4] * 1000


def test_single_late_steps_change_nothing():
    crew = Crew(2)
    for i in range(1000):
        crew.report(1.0 if i % 10 == 0 else 0.0, i * STEP)
        assert crew.threads == 2


@pytest.mark.parametrize("most,busy", [(2, 1), (4, 1), (4, 3), (8, 2)])
def test_a_busy_core_is_left_out(most, busy):
    """Threads beyond the free cores are each in the others' way; within a second they are gone, and rarely back."""
    crew, free = Crew(most), most - busy
    used = run(crew, lambda n: 0.8 if n > free else 0.05, 60)
    assert used[0] == most and used[100 * busy] <= free + 1
    late = used[3000:]
    assert min(late) >= max(1, free) and sum(n > free for n in late) < 0.06 * len(late)
    # The core becomes free: all threads are back after the longest hold for each.
    back = run(crew, lambda n: 0.05, 5.0 * busy, start=60)
    assert back[-1] == most


def spans(used: list[int], threads: int) -> list[int]:
    """How many steps in a row had so many threads, each time that it came to that."""
    return [len(list(steps)) for count, steps in itertools.groupby(used) if count == threads]


def test_a_trial_that_fails_is_short():
    """It begins half-way to one half, and 0.8 - 0.55 * 0.75^3 is more than that."""
    trials = spans(run(Crew(2), lambda n: 0.8 if n > 1 else 0.0, 30), 2)
    assert len(trials) > 5 and set(trials[1:]) == {3}


def test_holds_double_up_to_four_seconds_and_begin_anew():
    """After a time without trouble the next thread is left out for a quarter of a second again."""
    crew = Crew(2)
    for start in (100, 200):
        holds = spans(run(crew, lambda n: 0.8 if n > 1 else 0.0, 30, start), 1)
        assert [steps * STEP for steps in holds[:7]] == pytest.approx([0.25, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0], abs=STEP)
        run(crew, lambda n: 0.0, 20, start + 30)


@pytest.mark.parametrize("step", [0.3, 3.0])
def test_steps_longer_than_a_hold_are_no_trial_by_themselves(step):
    """A long prompt's steps: a thread more is tried after some of them only, and rarely where that fails."""
    crew, used = Crew(4), []
    for i in range(400):
        used.append(crew.threads)
        crew.report(0.8 if crew.threads > 1 else 0.0, 100 + step * i)
    assert used[200:].count(1) > 100 and max(used[200:]) == 2


def test_threads_that_go_one_after_the_other():
    """Steps last longer than the first hold: that fewer than all threads had run says that the hold was too short."""
    crew, used = Crew(4), []
    for i in range(200):
        used.append(crew.threads)
        crew.report(0.9 if crew.threads > 1 else 0.0, 100 + 0.3 * i)
    assert used[:6] == [4, 4, 3, 2, 2, 1] and used.count(1) > 150


def test_one_thread_is_the_least():
    assert set(run(Crew(1), lambda n: 1.0, 5)) == {1}
    assert min(run(Crew(3), lambda n: 1.0, 5)) == 1


def test_an_engine_with_fewer_threads_gives_the_same():
    """Steps on three, one and two of an engine's threads; what the idle ones do not do is done."""
    engine, ids = load(WINDOWS, threads=3), tokens(60, WINDOWS)
    expected, slot = feed(engine, engine.open(), ids, 5), engine.open()
    found = []
    for i, count in enumerate([3, 1, 2] * 4):
        engine._crew.threads = count
        found.append(feed(engine, slot, ids[5 * i : 5 * i + 5]))
    assert np.array_equal(np.concatenate(found), expected)
    engine.close()
