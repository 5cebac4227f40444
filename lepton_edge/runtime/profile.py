"""Where the time of steps goes, operation by operation."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import MachineError
from ..program import Program
from ..program.batch import Batch
from ..program.cost import costs

__all__ = ["OpTime", "Profile"]


@dataclass(frozen=True)
class OpTime:
    """One operation in one part of all layers: `rows` rows of the program.  Times are seconds of a step.

    seconds: from beginning to end, the mean of the threads.  wait: of these, what a thread waits at the barrier after
    its share is done.  nbytes, operations: what had to be done for a step, as `program.cost` counts it.
    """

    op: str
    part: str
    rows: int
    seconds: float
    wait: float
    nbytes: float
    operations: float


class Profile:
    """The clocks of the steps that an engine ran meanwhile; `Engine.profile` makes one.

    Each thread's clock is compared with itself only; the time of a row and its wait add up to the whole step.
    """

    def __init__(self, program: Program, threads: int) -> None:
        rows = len(program.rows)
        self.stamps: NDArray[np.int64] = np.zeros((threads, rows + 1, 2), np.int64)  # of the step that runs
        self._program = program
        self._ticks = np.zeros((rows, 2))  # work and wait, summed over steps, mean of the threads
        self._batches: list[Batch] = []
        self._first = self._last = (0.0, 0)  # (seconds, ticks) of the beginning and the end

    @property
    def steps(self) -> int:
        """How many steps were run."""
        return len(self._batches)

    def add(self, batch: Batch, rows: int, started: float, ended: float) -> None:
        """Take in the stamps of a step of the first `rows` rows over `batch`; from and to perf_counter's seconds."""
        threads = len(self.stamps)
        stamps = self.stamps.reshape(-1)[: threads * (rows + 1) * 2].reshape(threads, rows + 1, 2)  # as `walk` lays it
        begin, end, following = stamps[:, :-1, 0], stamps[:, :-1, 1], stamps[:, 1:, 0]
        self._ticks[:rows, 0] += (end - begin).mean(axis=0)
        self._ticks[:rows, 1] += (following - end).mean(axis=0)
        if not self._batches:
            self._first = started, int(stamps[0, 0, 0])
        self._last = ended, int(stamps[0, -1, 0])
        self._batches.append(tuple(values.copy() for values in batch))  # type: ignore[arg-type]  # they are the caller's

    def ops(self) -> list[OpTime]:
        """The operations in the program's order, equal ones of all layers as one.  [] before the first step.

        Raises MachineError where the CPU's clock does not count.
        """
        if not self._batches:
            return []
        passed, ticks = (last - first for first, last in zip(self._first, self._last, strict=True))
        if ticks <= 0:
            raise MachineError("no profile: the clock that programs may read does not count on this CPU")
        # The beginning and end of the first and the last step are some microseconds apart from their stamps.
        seconds = self._ticks * (passed / ticks / self.steps)
        work = np.sum([costs(self._program, batch) for batch in self._batches], axis=0) / self.steps
        groups: dict[tuple[str, str], list[int]] = {}
        for i, row in enumerate(self._program.rows):
            groups.setdefault((row.op, row.part), []).append(i)
        return [
            OpTime(op, part, len(rows), seconds[rows].sum(), seconds[rows, 1].sum(), *work[rows].sum(axis=0).tolist())
            for (op, part), rows in groups.items()
        ]
