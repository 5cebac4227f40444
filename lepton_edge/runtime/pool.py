"""The thread pool: Python threads that run compiled code without the GIL and meet at its barriers.

A step is run by `threads` threads.  In a short step the caller is thread 0.  In a long one a stand-in is, and the
caller waits on a lock, so that Ctrl-C reaches it at once: it then raises the cancel flag, and the step ends within
milliseconds.
"""

import contextlib
import ctypes
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels.layout import CANCEL, FINISHED, LOST, SYNC_BYTES, TAKEN
from .memory import aligned_zeros

__all__ = ["Pool", "yield_address"]

Walk = Callable[[int, int, int], None]


def yield_address() -> int:
    """The address of the system's `give up the core` function, which waiting threads call; 0 where there is none."""
    if sys.platform == "win32":
        function = ctypes.WinDLL("kernel32").SwitchToThread
    else:
        function = ctypes.CDLL(None).sched_yield
    return ctypes.cast(function, ctypes.c_void_p).value or 0


class _Workers:
    """What the worker threads hold; the pool itself is not among it, so that an abandoned pool can end them.

    `go` and `done` are locks used as bells: ringing one is a single C call, which no signal can interrupt half-way.
    A bell may ring too often: whoever hears it looks at `step` or at the finished flags, which say what is true.
    """

    def __init__(self, walk: Walk, threads: int) -> None:
        self.walk, self.context, self.step, self.stopping = walk, 0, 0, False
        self.steps = [0] * threads
        self.go, self.done = [_bell() for _ in range(threads)], _bell()

    def loop(self, thread: int) -> None:
        last = 0
        while True:
            self.go[thread].acquire()
            if self.stopping:
                return
            step = self.steps[thread]
            if step == last:
                continue
            last = step
            self.walk(0, self.context, thread)
            if thread == 0:
                _ring(self.done)

    def wake(self, first: int, stop: int) -> None:
        """Have threads `first` to `stop` - 1 run the step; the others must not, even if an old ring wakes them."""
        self.steps = self.steps[:first] + [self.step] * (stop - first) + self.steps[stop:]
        for bell in self.go[first:stop]:
            _ring(bell)

    def stop(self) -> None:
        self.stopping = True
        for bell in self.go:
            _ring(bell)


def _bell() -> threading.Lock:
    bell = threading.Lock()
    bell.acquire()
    return bell


def _ring(bell: threading.Lock) -> None:
    with contextlib.suppress(RuntimeError):  # it is ringing already
        bell.release()


def _int64(memory: NDArray[Any]) -> memoryview:
    """Memory as integers that Python reads and writes."""
    return memory.view(np.uint8).data.cast("q")


class Pool:
    """`threads` threads for the steps of one engine.  `sync` is the address of the block that the barriers live in."""

    def __init__(self, walk: Walk, threads: int) -> None:
        self.threads, self._walk = threads, walk
        self._memory = aligned_zeros(SYNC_BYTES)
        self.sync = self._memory.ctypes.data
        # Memory views: half the time of NumPy's for single numbers, and a step reads and writes some ten of them.
        self._cancel = _int64(self._memory[CANCEL : CANCEL + 8])
        self._lost, self._taken = (_int64(self._memory[field : field + 8]) for field in (LOST, TAKEN))
        self._finished = _int64(self._memory[FINISHED : FINISHED + 8 * threads])
        self._none, self._all = (_int64(np.full(threads, value, np.int64)) for value in (0, 1))
        self._finished[:] = self._all
        self._workers: _Workers | None = None
        self._pid = 0

    def ready(self) -> None:
        """Forget what was cancelled before."""
        self._cancel[0] = 0

    def cancel(self) -> None:
        """Make the running step stop, and every step after it until `ready`."""
        self._cancel[0] = 1

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called since `ready`."""
        return bool(self._cancel[0])

    def run(self, context: int, long: bool, threads: int) -> bool:
        """Run one step on the first `threads` threads, as the context says; -> whether it was cancelled.

        KeyboardInterrupt cancels the step and propagates.
        """
        workers = self._start()
        self.drain()
        step = workers.step + 1
        try:
            self._finished[:threads] = self._none[:threads]
            self._lost[0] = 0
            workers.context = context
            workers.step = step  # from here on the workers may start
            workers.wake(0 if long else 1, threads)
            if not long:
                self._walk(0, context, 0)
            while not self._finished[0]:
                workers.done.acquire(timeout=1)
            self.drain()  # who is late still writes to memory that a dropped model would take along
        except BaseException:
            self._settle(workers, step, long, threads)
            raise
        return bool(self._cancel[0])

    def lost(self, threads: int) -> float:
        """The share of the last step's time that its threads waited for late ones: 0 to 1."""
        return self._lost[0] / (self._taken[0] * (threads - 1)) if threads > 1 and self._taken[0] > 0 else 0.0

    def _settle(self, workers: _Workers, step: int, long: bool, threads: int) -> None:
        """After an interrupt at any point of `run`: bring the step to its end, however far it had come."""
        while True:
            try:
                if workers.step != step:
                    self._finished[:] = self._all
                    return
                self.cancel()
                workers.wake(0 if long else 1, threads)
                if not long and not self._finished[0]:
                    self._walk(0, workers.context, 0)
                self.drain()
                return
            except KeyboardInterrupt:
                continue

    def drain(self) -> None:
        """Wait until every thread has left the step before: a matter of microseconds."""
        while 0 in self._finished:
            time.sleep(0)

    def _start(self) -> _Workers:
        """The worker threads; started on first use, and again in a forked child, which has none."""
        if self._workers is None or self._pid != os.getpid():
            self._finished[:] = self._all
            workers = _Workers(self._walk, self.threads)
            for i in range(self.threads):
                threading.Thread(target=workers.loop, args=(i,), name=f"lepton-{i}", daemon=True).start()
            self._workers, self._pid = workers, os.getpid()
            self._end = weakref.finalize(self, workers.stop)
        return self._workers

    def close(self) -> None:
        """End the worker threads; a later `run` starts new ones."""
        if self._workers is not None:
            self.drain()
            self._end()
            self._workers = None
