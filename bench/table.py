"""Writes the README's table of measured speeds from the newest run in bench/results/.

    python -m bench.table [--check]

The table stands between the lines `<!-- bench:begin -->` and `<!-- bench:end -->` and is never typed by hand.
`--check` changes nothing and exits with 1 when the README does not have the newest run's table.
"""

import argparse
import re
import sys
import textwrap
from pathlib import Path

from bench.engines import ROOT, Lepton
from bench.plan import base_of
from bench.results import Result, ResultsError, newest, speedup
from lepton_edge.cli.shapes import SHAPES
from lepton_edge.quant.formats import get_format

__all__ = ["BEGIN", "END", "render", "replace"]

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
WIDTH = 118  # of a line of text


def render(results: list[Result], source: str) -> str:
    """The Markdown of the results: for each machine, in the order given, what it is, its table, and how to read it.

    `source` is the results file's name. The engines are columns, ours first. A peer's cell ends in our speed-up, and
    ours, in a test that is set against another of our own, in the ratio of the two.
    """
    machines: dict[tuple[str, str, int], list[Result]] = {}
    for result in results:
        machines.setdefault(result.machine, []).append(result)
    parts = [f"{_heading(group)}\n\n{_table(group)}\n\n{_caption(group, source)}" for group in machines.values()]
    return "\n\n".join(parts)


def _table(results: list[Result]) -> str:
    engines = _engines(results)
    cases = sorted({result.case for result in results}, key=_order)
    found = {(result.case, result.engine): result for result in results}
    lines = [
        f"| model shape | weights | test | {' | '.join(engines)} |",
        f"|---|---|---|{'---:|' * len(engines)}",
    ]
    limited = len({result.isa for result in results}) > 1
    for case in cases:
        shape, format, _, isa, test = case
        cells = [_cell(found.get((case, engine)), results) for engine in engines]
        weights = f"{format} ({isa})" if limited else format
        lines.append(f"| {shape} | {weights} | {test} | {' | '.join(cells)} |")
    return "\n".join(lines)


def replace(readme: str, table: str, begin: str = BEGIN, end: str = END) -> str:
    """`readme` with `table` between the two marker lines. Raises ResultsError unless each is there once, in order."""
    lines = readme.splitlines()
    if lines.count(begin) != 1 or lines.count(end) != 1 or lines.index(begin) > lines.index(end):
        raise ResultsError(f"the README needs one line {begin} and, after it, one line {end}")
    before, after = lines[: lines.index(begin) + 1], lines[lines.index(end) :]
    return "\n".join([*before, "", *table.splitlines(), "", *after]) + "\n"


def _engines(results: list[Result]) -> list[str]:
    return sorted({result.engine for result in results}, key=lambda name: (name != Lepton.name, name))


def _order(case: tuple[str, str, int, str, str]) -> tuple:
    shape, format, threads, isa, test = case
    numbers = [int(number) for number in re.findall(r"\d+", test)]
    return list(SHAPES).index(shape), threads, isa, get_format(format).bits, test[:2], numbers


def _cell(result: Result | None, results: list[Result]) -> str:
    if result is None:
        return "–"
    digits = 0 if result.median >= 100 else 1
    text = f"{result.median:.{digits}f} ({result.low:.{digits}f}–{result.high:.{digits}f})"
    if result.engine != Lepton.name:
        factor = speedup(result, results)
        return text if factor is None else f"{text}, {factor:.2f}×"
    base = base_of(result)
    own = [other for other in results if (other.engine, other.case) == (result.engine, (*result.case[:-1], base))]
    return f"**{text}**" + (f", {result.median / own[0].median:.2f} of {base}" if own else "")


def _heading(results: list[Result]) -> str:
    first = results[0]
    sets = " and ".join(sorted({result.isa for result in results}, reverse=True))
    return f"**{first.cpu}, {first.cores} cores, {sets}**, {first.system}, {first.run[:10]}"


def _caption(results: list[Result], source: str) -> str:
    first = results[0]
    versions = {result.engine: result.version for result in results}
    named = ", ".join(f"{engine} {versions[engine]}" for engine in _engines(results))
    rounds = " or ".join(str(count) for count in sorted({len(result.samples) for result in results}))
    threads = " or ".join(str(count) for count in sorted({result.threads for result in results}))
    text = (
        f"Tokens per second: median (min–max) of {rounds} rounds in turns, {threads} threads, random weights; × is "
        f"lepton_edge's speed-up. {named}; commit {first.commit}. Measured by `python -m bench.e2e`; "
        f"`python -m bench.table` made this from `{source}`, which has every command."
    )
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.table", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether the README has the newest run's table")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    args = parser.parse_args()
    try:
        path, results = newest()
        if any(result.disturbed for result in results):
            raise ResultsError(f"{path}: its newest run was disturbed by other processes; measure again when idle")
        readme = args.readme.read_text("utf-8")
        wanted = replace(readme, render(results, path.relative_to(ROOT).as_posix()))
    except (OSError, ResultsError) as error:
        print(f"bench.table: error: {error}", file=sys.stderr)
        return 2
    if wanted == readme:
        return 0
    if args.check:
        print(f"{args.readme}: not the table of {path}; run python -m bench.table", file=sys.stderr)
        return 1
    args.readme.write_text(wanted, "utf-8")
    print(f"{args.readme}: table of {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
