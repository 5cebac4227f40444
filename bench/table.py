"""Writes the README's table of measured speeds from the newest run in bench/results/.

    python -m bench.table [--check]

The table stands between the lines `<!-- bench:begin -->` and `<!-- bench:end -->` and is never typed by hand.
`--check` changes nothing and exits with 1 when the README does not have the newest run's table.
"""

import argparse
import sys
from pathlib import Path

from bench.engines import ROOT, Lepton
from bench.results import Result, ResultsError, newest, speedup
from lepton_edge.cli.shapes import SHAPES

__all__ = ["BEGIN", "END", "render", "replace"]

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


def render(results: list[Result], source: str) -> str:
    """The Markdown table of one run, and a line below it that says how and where it was measured.

    `source` is the results file's name. The engines are columns, ours first; a peer's cell ends in our speed-up.
    """
    engines = sorted({result.engine for result in results}, key=lambda name: (name != Lepton.name, name))
    cases = sorted({result.case for result in results}, key=_order)
    found = {(result.case, result.engine): result for result in results}
    lines = [
        f"| model shape | weights | test | {' | '.join(engines)} |",
        f"|---|---|---|{'---:|' * len(engines)}",
    ]
    for case in cases:
        shape, format, _, test = case
        cells = [_cell(found.get((case, engine)), results) for engine in engines]
        lines.append(f"| {shape} | {format} | {test} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", _caption(results, engines, source)])


def replace(readme: str, table: str) -> str:
    """`readme` with `table` between the two marker lines. Raises ResultsError unless each is there once, in order."""
    lines = readme.splitlines()
    if lines.count(BEGIN) != 1 or lines.count(END) != 1 or lines.index(BEGIN) > lines.index(END):
        raise ResultsError(f"the README needs one line {BEGIN} and, after it, one line {END}")
    before, after = lines[: lines.index(BEGIN) + 1], lines[lines.index(END) :]
    return "\n".join([*before, "", *table.splitlines(), "", *after]) + "\n"


def _order(case: tuple[str, str, int, str]) -> tuple:
    shape, format, threads, test = case
    return list(SHAPES).index(shape), format, threads, test


def _cell(result: Result | None, results: list[Result]) -> str:
    if result is None:
        return "–"
    digits = 0 if result.median >= 100 else 1
    text = f"{result.median:.{digits}f} ({result.low:.{digits}f}–{result.high:.{digits}f})"
    if result.engine == Lepton.name:
        return f"**{text}**"
    ratio = speedup(result, results)
    return text if ratio is None else f"{text}, {ratio:.2f}×"


def _caption(results: list[Result], engines: list[str], source: str) -> str:
    first = results[0]
    versions = {result.engine: result.version for result in results}
    named = ", ".join(f"{engine} {versions[engine]}" for engine in engines)
    rounds = " or ".join(str(count) for count in sorted({len(result.samples) for result in results}))
    threads = " or ".join(str(count) for count in sorted({result.threads for result in results}))
    return (
        f"Tokens per second: median (min–max) of {rounds} rounds in turns, {threads} threads, random weights; × is "
        f"lepton_edge's speed-up. {first.cpu}, {first.cores} cores, {first.system}, {first.run[:10]}. "
        f"{named}; commit {first.commit}. Made by `python -m bench.table` from `{source}`."
    )


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
