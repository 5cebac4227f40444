"""How many threads the next step gets: fewer while other processes hold up the steps.

All threads meet after nearly every operation, so one whose core is taken by another process stops the rest for the
whole of that process's turn: on two cores, decoding fell to a third of its speed, where one thread alone has more
than half.  So the waiting is measured, and a thread that costs more than it brings is left out for a while.
"""

__all__ = ["Crew"]

WEIGHT = 0.25  # of the newest step in the running share of time that is lost: a single late step changes nothing
TRIAL = 4  # steps that a new number is tried for, at least: one of a long prompt takes longer than a hold
FIRST_HOLD, LONGEST_HOLD = 0.25, 4.0  # s until a thread that was left out is tried again; doubles when that fails


class Crew:
    """The number of threads for the steps of an engine, from 1 to `most`."""

    def __init__(self, most: int) -> None:
        self.most = self.threads = most
        self._lost = 0.0
        self._hold = FIRST_HOLD
        self._changed, self._steps = 0.0, 0  # when the number was changed, and steps since then

    def report(self, lost: float, now: float) -> None:
        """What came of a step: the share of its time that threads waited for late ones, and the time now, in s.

        One of n threads brings a speedup of n / (n - 1) at most, so it is left out where more than 1 / n is lost.
        """
        self._lost += WEIGHT * (lost - self._lost)
        self._steps += 1
        tried = now - self._changed >= self._hold and self._steps >= TRIAL
        if self.threads > 1 and self._lost > 1 / self.threads:
            failed = self.threads < self.most or not tried
            self._hold = min(2 * self._hold, LONGEST_HOLD) if failed else FIRST_HOLD
            self._change(self.threads - 1, now)
        elif self.threads < self.most and tried:
            self._change(self.threads + 1, now)

    def _change(self, threads: int, now: float) -> None:
        # A new number starts half-way to being given up, so that a trial that fails is short.
        self.threads, self._lost = threads, 0.5 / threads
        self._changed, self._steps = now, 0
