"""The entry point: order of rows, barriers, cancelling; and the kernels' own look at the cancel flag."""

import threading
import time

import numpy as np
import pytest
from kernels.harness import ISAS, Rig

from lepton_edge.kernels import layout
from lepton_edge.kernels.library import callable_kernel, kernels
from lepton_edge.kernels.ops import WANTED
from lepton_edge.runtime.memory import aligned_zeros

each_isa = pytest.mark.parametrize("isa", ISAS)
TOKENS, COLUMNS = 16, 512


class Chain:
    """Rows that turn the tokens round, from one buffer to the next: each row needs all of the row before it."""

    def __init__(self, isa, rows, threads, barriers=True, yielding=True):
        self.rig = Rig(isa, TOKENS, wanted=[(i + 5) % TOKENS for i in range(TOKENS)])
        first = np.random.default_rng(0).standard_normal((TOKENS, COLUMNS)).astype(np.float32)
        self.buffers = [self.rig.memory.padded(first if i == 0 else 0 * first) for i in range(rows + 1)]
        for x, y in zip(self.buffers, self.buffers[1:], strict=False):
            self.rig.row("gather", count=WANTED, barrier=barriers, x=x, ldx=COLUMNS, y=y, ldy=COLUMNS, n=COLUMNS)
        self.table, self.memory, self.threads = self.rig.table(), aligned_zeros(layout.SYNC_BYTES), threads
        self.scratch = aligned_zeros(4096 * threads)
        self.context = self.rig.context(self.table, threads, self.memory.ctypes.data, self.scratch)
        if not yielding:
            self.context[layout.YIELD // 8] = 0
        self.walk = callable_kernel(kernels(["walk"], isa)["walk"])

    def start(self, thread):
        worker = threading.Thread(target=self.walk, args=(0, self.context.ctypes.data, thread), daemon=True)
        worker.start()
        return worker

    @staticmethod
    def end(*workers):
        for worker in workers:
            worker.join(60)
            assert not worker.is_alive(), "waits for ever"

    def sync(self, field):
        return self.memory[field : field + 8].view(np.int64)

    def done(self):
        """Rows whose output is right."""
        right = [np.array_equal(y, np.roll(self.buffers[0], -5 * i, axis=0)) for i, y in enumerate(self.buffers)]
        return right[1:]


@each_isa
@pytest.mark.parametrize("threads,yielding", [(1, True), (2, True), (2, False), (3, True), (4, True)])
def test_every_row_sees_the_row_before_it(isa, threads, yielding):
    for _ in range(5):
        chain = Chain(isa, 40, threads, yielding=yielding)
        chain.end(*[chain.start(i) for i in range(threads)])
        assert all(chain.done())
        finished = chain.memory[layout.FINISHED :].view(np.int64)
        assert finished[:threads].all() and not finished[threads:].any()
        assert chain.sync(layout.STOPPED)[0] == 0


@each_isa
def test_a_barrier_holds_until_the_last_thread_comes(isa):
    chain = Chain(isa, 3, threads=2)
    first = chain.start(0)
    time.sleep(0.05)
    assert chain.done() == [True, False, False], "thread 0 does all work of row 0, then waits"
    assert not chain.memory[layout.FINISHED :].any()
    second = chain.start(1)
    chain.end(first, second)
    assert all(chain.done())


@each_isa
def test_rows_without_a_barrier_do_not_wait(isa):
    chain = Chain(isa, 3, threads=2, barriers=False)
    chain.end(chain.start(0))
    assert all(chain.done())
    chain.end(chain.start(1))


@each_isa
def test_cancel_between_rows(isa):
    """Cancelled while thread 0 waits: both threads leave at that barrier."""
    chain = Chain(isa, 3, threads=2)
    first = chain.start(0)
    time.sleep(0.02)
    chain.sync(layout.CANCEL)[0] = 1
    second = chain.start(1)
    chain.end(first, second)
    assert chain.done() == [True, False, False] and chain.sync(layout.STOPPED)[0] == 1
    assert chain.memory[layout.FINISHED :].view(np.int64)[:2].all()


@each_isa
@pytest.mark.parametrize("barriers", [True, False])
def test_cancel_before_the_first_row(isa, barriers):
    """Kernels take no work once the flag is set, whether or not there is a barrier to leave at."""
    chain = Chain(isa, 3, threads=1, barriers=barriers)
    chain.sync(layout.CANCEL)[0] = 1
    chain.end(chain.start(0))
    assert chain.done() == [False] * 3 and not chain.buffers[1].any()


@each_isa
def test_clocks(isa):
    """Where asked for, every thread stamps the start and the end of its share of each row, and its end."""
    chain = Chain(isa, 4, threads=2)
    stamps = np.zeros((3, 5, 2), np.int64)
    chain.context[layout.STAMPS // 8] = stamps.ctypes.data
    first = chain.start(0)
    time.sleep(0.02)
    chain.end(first, chain.start(1))
    assert not stamps[2].any() and not stamps[:, 4, 1].any()
    for own in stamps[:2].reshape(2, -1)[:, :-1]:
        assert own[0] > 0 and (np.diff(own) >= 0).all()
    # A clock may tick 16 times a microsecond only (ARM's), but a row of 32 KiB, or 16 of two threads, takes longer.
    assert ((stamps[:2, :4, 1] - stamps[:2, :4, 0]).sum(axis=0) > 0).all()
    waits = stamps[:2, 1:, 0] - stamps[:2, :-1, 1]
    assert waits[0, 0] > 0
    # Thread 0 did all of row 0, then waited for thread 1 to come: of all waits this one must be the longest.
    assert waits.argmax() == 0
