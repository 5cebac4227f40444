"""Plain tables that fit 80 columns, readable sizes, and a progress bar."""

import sys
import textwrap
from collections.abc import Mapping, Sequence

WIDTH = 80
LEAST = 12  # characters of a column that is shortened
# What could move the cursor or worse; a tab and a new line are shown.
CONTROLS = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)], "\N{REPLACEMENT CHARACTER}")


def table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], align: str = "<", width: int = WIDTH,
    soft: Sequence[int] = (0,),
) -> str:  # fmt: skip
    """A table as text; `align` has '<' or '>' for each column from the first, the others are aligned right.

    Where a line would be longer than `width`, the cells of the columns `soft` are shortened in their middle, the widest
    one's first.
    """
    sizes = [max(len(row[i]) for row in (headers, *rows)) for i in range(len(headers))]
    for _ in range(sum(sizes) + 2 * (len(sizes) - 1) - width):
        widest = max(soft, key=sizes.__getitem__, default=None)
        if widest is None or sizes[widest] <= LEAST:
            break
        sizes[widest] -= 1
    lines = []
    for row in (headers, ["-" * size for size in sizes], *rows):
        aligned = [
            shorten(cell, size).ljust(size) if side == "<" else cell.rjust(size)
            for cell, size, side in zip(row, sizes, align.ljust(len(sizes), ">"), strict=True)
        ]
        lines.append("  ".join(aligned).rstrip())
    return "\n".join(lines)


def facts(values: Mapping[str, str], width: int = WIDTH) -> str:
    """One label and value a line; long values go on in the next lines, broken at spaces only."""
    indent = max(map(len, values)) + 2
    lines = []
    for label, value in values.items():
        lines += textwrap.wrap(
            value,
            width,
            initial_indent=label.ljust(indent),
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [label]
    return "\n".join(lines)


def shorten(text: str, width: int) -> str:
    """`text`, with its middle replaced by '..' where it is longer than `width`."""
    if len(text) <= width:
        return text
    head = (width - 2) // 2
    return text[:head] + ".." + text[len(text) - (width - 2 - head) :]


def size(count: float) -> str:
    """A number of bytes, for people: '812 B', '1.5 KB', '723.4 MB' (powers of 1000)."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def notify(message: str) -> None:
    """A line on stderr about something that takes a while."""
    print(f"lepton: {message}", file=sys.stderr, flush=True)


class Progress:
    """A one-line bar on stderr; silent where stderr is no terminal."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()

    def __call__(self, done: int, total: int, label: str) -> None:
        """Draws the bar: `done` of `total` in any unit, `label` at its right end."""
        if not self._shown:
            return
        share = done / total if total else 1.0
        bar = ("#" * round(24 * share)).ljust(24)
        line = f"[{bar}] {100 * share:3.0f}% {shorten(label, 45)}"
        print("\r" + line.ljust(WIDTH - 1), end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Wipes the bar."""
        if self._shown:
            print("\r" + " " * (WIDTH - 1) + "\r", end="", file=sys.stderr, flush=True)
