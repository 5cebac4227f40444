"""A profile's times add up, from stamps made by hand and from an engine's; timing itself is not asserted."""

import time

import numpy as np
import pytest
from engines import ODD, PLAIN, Weights, feed, load, tokens

from lepton_edge.errors import MachineError, RequestError
from lepton_edge.program import build_program
from lepton_edge.program.cost import costs
from lepton_edge.runtime.profile import Profile


def by_hand(threads=2):
    program = build_program(PLAIN, Weights(PLAIN).weight, "f32", 64)
    return program, Profile(program, threads)


def batch(position=0):
    return tuple(np.array([value], np.int64) for value in (1, 0, position, 0))


def test_work_and_waits_are_means_of_the_threads():
    """Thread 0 works 30 ticks in every row and waits 10, thread 1 works 20 and waits 20, on a clock of its own."""
    program, profile = by_hand()
    rows = np.arange(len(program.rows) + 1)
    profile.stamps[:] = (40 * rows + np.array([[1000], [-5]]))[:, :, None]
    profile.stamps[0, :, 1] += 30
    profile.stamps[1, :, 1] += 20
    ticks = 40 * len(program.rows)
    profile.add(batch(), len(program.rows), 50.0, 50.0 + ticks / 1e9)  # a tick is a nanosecond
    found = {(op.op, op.part): op for op in profile.ops()}
    assert profile.steps == 1
    assert sum(op.rows for op in found.values()) == len(program.rows)
    gate = found["matmul_f32", "gate"]
    assert gate.rows == 2, "one for each layer"
    assert gate.seconds == pytest.approx(2 * 40e-9) and gate.wait == pytest.approx(2 * 15e-9)
    assert (gate.nbytes, gate.operations) == (2 * 96 * 64 * 4, 2 * 2 * 96 * 64)
    assert sum(op.seconds for op in found.values()) == pytest.approx(ticks * 1e-9)


def test_several_steps_are_averaged():
    """The second step takes three times as long; between them the clock goes on."""
    program, profile = by_hand(threads=1)
    stamps = np.arange(2 * len(program.rows) + 2).reshape(1, -1, 2)
    n = 2 * len(program.rows)
    profile.stamps[:] = 10 * stamps
    profile.add(batch(0), len(program.rows), 0.0, 0.1)
    profile.stamps[:] = 10 * n + 500 + 30 * stamps
    profile.add(batch(1), len(program.rows), 0.2, (40 * n + 500) * 1e-9)
    assert profile.steps == 2
    assert sum(op.seconds for op in profile.ops()) == pytest.approx(20 * n * 1e-9)
    attention = next(op for op in profile.ops() if op.op == "attention_f32")
    expected = sum(costs(program, batch(i))[:, 1] for i in (0, 1)) / 2
    assert attention.operations == sum(expected[i] for i, row in enumerate(program.rows) if row.op == "attention_f32")


def test_before_the_first_step_there_is_nothing():
    assert by_hand()[1].ops() == []


def test_a_clock_that_stands_still_is_an_error():
    program, profile = by_hand()
    profile.add(batch(), len(program.rows), 0.0, 1.0)
    with pytest.raises(MachineError, match="clock"):
        profile.ops()


def test_the_callers_arrays_may_change_afterwards():
    program, profile = by_hand()
    profile.stamps[:, -1] = 1
    mine = batch()
    profile.add(mine, len(program.rows), 0.0, 1.0)
    mine[2][0] = 1000
    found = sum(op.operations for op in profile.ops())
    assert found == costs(program, batch())[:, 1].sum()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_an_engines_steps(threads):
    """The rows' times make up the step but for what is between steps; other steps are not counted."""
    engine = load(ODD, "q4", threads=threads)
    slot, ids = engine.open(), tokens(40, ODD)
    feed(engine, slot, ids[:10])
    started = time.perf_counter()
    with engine.profile() as profile:
        feed(engine, slot, ids[10:20], chunk=5)
        feed(engine, slot, ids[20:21])
    elapsed = time.perf_counter() - started
    after = feed(engine, slot, ids[21:])
    assert profile.steps == 3
    found = profile.ops()
    assert sum(op.rows for op in found) == len(engine.program.rows)
    assert all(0 <= op.wait <= op.seconds for op in found)
    assert 0 < sum(op.seconds for op in found) * 3 <= elapsed
    plain = load(ODD, "q4", threads=threads)
    assert np.array_equal(feed(plain, plain.open(), ids)[21:], after), "a profile changes no result"


def test_one_profile_at_a_time():
    engine = load(PLAIN)
    with engine.profile(), pytest.raises(RequestError, match="already"), engine.profile():
        pass
    with engine.profile() as profile:
        engine.forward([1], [engine.open()], [0], [0])
    assert profile.steps == 1
