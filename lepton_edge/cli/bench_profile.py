"""`lepton bench --profile`: where the time of a step goes, and how much of it is above the machine's limit."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_edge.cli.output import table

if TYPE_CHECKING:
    from lepton_edge.runtime.profile import Profile


@dataclass(frozen=True)
class Line:
    """One operation in one part of all layers; -o json prints these fields.  Times are microseconds of a step.

    rows: of the program. share: of the step. gb_s, gops: what must be moved and computed, in this time. barrier_us:
    waiting for other threads, the mean of the threads. limit_us: the least time that memory allows for products and
    attention, 0 for what works in the caches. loss_us: us - limit_us.
    """

    model: str
    format: str
    threads: int
    isa: str
    test: str
    op: str
    part: str
    rows: int
    share: float
    us: float
    gb_s: float
    gops: float
    barrier_us: float
    limit_us: float
    loss_us: float


def lines(profile: "Profile", seconds: float, bandwidth: float, **run: Any) -> list[Line]:
    """The lines of one test, largest loss first; `seconds`: what a step took, seen from outside.

    The line 'outside' is what is spent between steps: waking the threads, Python, logits copied.  `run`: the fields of
    a Line that say what was measured.
    """
    rest = seconds
    found = []
    for op in profile.ops():
        limit = op.nbytes / bandwidth if op.operations else 0.0
        found.append(
            Line(
                **run,
                op=op.op,
                part=op.part,
                rows=op.rows,
                share=round(op.seconds / seconds, 4),
                us=round(op.seconds * 1e6, 2),
                gb_s=round(op.nbytes / op.seconds / 1e9, 2),
                gops=round(op.operations / op.seconds / 1e9, 2),
                barrier_us=round(op.wait * 1e6, 2),
                limit_us=round(limit * 1e6, 2),
                loss_us=round((op.seconds - limit) * 1e6, 2),
            )
        )
        rest -= op.seconds
    us = round(rest * 1e6, 2)
    found.append(Line(**run, op="outside", part="", rows=0, share=round(rest / seconds, 4), us=us, gb_s=0.0, gops=0.0,
                      barrier_us=0.0, limit_us=0.0, loss_us=us))  # fmt: skip
    return sorted(found, key=lambda line: -line.loss_us)


def render(found: list[Line]) -> str:
    """A table for each test, at most 80 columns wide."""
    tests: dict[str, list[Line]] = {}
    for line in found:
        tests.setdefault(line.test, []).append(line)
    return "\n\n".join(_test(test, rows) for test, rows in tests.items())


def _test(test: str, found: list[Line]) -> str:
    headers = [f"{test}: us a step", "rows", "share", "time", "GB/s", "GOPS", "barrier", "loss"]
    cells = [
        [f"{line.op} {line.part}", str(line.rows), f"{100 * line.share:.1f}%", f"{line.us:.1f}",
         f"{line.gb_s:.1f}", f"{line.gops:.1f}" if line.gops else "", f"{line.barrier_us:.1f}", f"{line.loss_us:.1f}"]
        for line in found
    ]  # fmt: skip
    total, limit = sum(line.us for line in found), sum(line.limit_us for line in found)
    cells.append(["sum", str(sum(line.rows for line in found)), "", f"{total:.1f}", "", "",
                  f"{sum(line.barrier_us for line in found):.1f}", f"{total - limit:.1f}"])  # fmt: skip
    reached = 100 * limit / total
    return f"{table(headers, cells)}\nthe limit is {limit:.1f} us: {reached:.0f}% of the speed that memory allows"
