"""`lepton bench --profile`: where the time of a step goes, and how much of it is above the machine's limit."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_edge.cli.output import table
from lepton_edge.kernels.ops import PACKED

if TYPE_CHECKING:
    from lepton_edge.cli.limits import Limits
    from lepton_edge.runtime.profile import OpTime, Profile


@dataclass(frozen=True)
class Line:
    """One operation in one part of all layers; -o json prints these fields.  Times are microseconds of a step.

    rows: of the program. share: of the step. gb_s, gops: what must be moved and computed, in this time. barrier_us:
    waiting for other threads, the mean of the threads. limit_us: the least time that this machine allows, by its memory
    and by its arithmetic; 0 for small operations, which work in the caches. loss_us: us - limit_us. The last three are
    the machine's limits.
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
    read_gb_s: float
    int8_gops: float
    f32_gops: float


def least_seconds(op: "OpTime", machine: "Limits") -> float:
    """The time that memory or arithmetic, whichever takes longer, allows for a product or attention; else 0."""
    if not op.operations:
        return 0.0
    int8 = op.op.startswith(("matmul", "gated")) and not set(PACKED).isdisjoint(op.op.split("_"))
    return max(op.nbytes / machine.read, op.operations / (machine.int8 if int8 else machine.f32))


def lines(profile: "Profile", seconds: float, machine: "Limits", **run: Any) -> list[Line]:
    """The lines of one test, largest loss first; `seconds`: what a step took, seen from outside.

    The line 'outside' is what is spent between steps: waking the threads, Python, logits copied.  `run`: the fields of
    a Line that say what was measured.
    """
    from lepton_edge.runtime.profile import OpTime

    run |= dict(read_gb_s=round(machine.read / 1e9, 2), int8_gops=round(machine.int8 / 1e9, 2),
                f32_gops=round(machine.f32 / 1e9, 2))  # fmt: skip
    ops = profile.ops()
    outside = OpTime("outside", "", 0, seconds - sum(op.seconds for op in ops), 0.0, 0.0, 0.0)
    found = []
    for op in [*ops, outside]:
        limit = least_seconds(op, machine)
        rates = [amount / op.seconds / 1e9 if op.seconds else 0.0 for amount in (op.nbytes, op.operations)]
        found.append(
            Line(
                **run,
                op=op.op,
                part=op.part,
                rows=op.rows,
                share=round(op.seconds / seconds, 4),
                us=round(op.seconds * 1e6, 2),
                gb_s=round(rates[0], 2),
                gops=round(rates[1], 2),
                barrier_us=round(op.wait * 1e6, 2),
                limit_us=round(limit * 1e6, 2),
                loss_us=round((op.seconds - limit) * 1e6, 2),
            )
        )
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
    first, reached = found[0], 100 * limit / total
    return (
        f"{table(headers, cells)}\n"
        f"{first.read_gb_s:.1f} GB/s, {first.int8_gops:.0f} GOPS on int8 and {first.f32_gops:.0f} on f32 allow "
        f"{limit:.1f} us: {reached:.0f}% reached"
    )
