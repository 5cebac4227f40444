"""Writes the README's table of speeds on a GPU from the newest file in bench/results/cuda/, which `bench.cuda` wrote.

    python -m bench.cuda_table [--check]

`--check` changes nothing and exits with 1 when the README does not have that table.
"""

import argparse
import json
import sys
import textwrap
from pathlib import Path
from typing import Any

from bench.engines import ROOT
from bench.results import FOLDER
from bench.table import WIDTH, replace

__all__ = ["BEGIN", "END", "newest", "render"]

BEGIN, END = "<!-- cuda:begin -->", "<!-- cuda:end -->"


def newest() -> Path:
    """The results file with the last name, which begins with its date."""
    return max((FOLDER / "cuda").glob("*.jsonl"))


def render(results: list[dict[str, Any]], source: str) -> str:
    """A row for each shape, a column for each test: tokens per second, and their share of the card's limit."""
    tests = list(dict.fromkeys(result["test"] for result in results))
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for result in results:
        cell = f"{result['tok_s']:,.0f} ({100 * result['share']:.1f}%)"
        rows.setdefault((result["shape"], result["format"]), {})[result["test"]] = cell
    lines = [f"| model shape | weights | {' | '.join(tests)} |", f"|---|---|{'---:|' * len(tests)}"]
    for (shape, format), cells in rows.items():
        lines.append(f"| {shape} | {format} | {' | '.join(cells.get(test, '–') for test in tests)} |")
    first = results[0]
    caption = (
        f"Tokens per second: median of {len(first['samples'])} rounds, random weights; in brackets, their share of the "
        f"limit: bytes over {first['bandwidth_gb_s'] / 1000:.1f} TB/s (a copy on the card), or int8 operations over "
        f"{first['int8_tops']:.0f} TOPS (`mma.sync`, measured too), whichever takes longer. Measured by `python -m "
        f"bench.cuda` on {first['run'][:10]}; `python -m bench.cuda_table` made this from `{source}`."
    )
    text = textwrap.fill(caption, WIDTH, break_long_words=False, break_on_hyphens=False)
    return f"**{first['card']}**\n\n" + "\n".join(lines) + f"\n\n{text}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.cuda_table", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 where the table is another")
    arguments = parser.parse_args()
    path, readme = newest(), ROOT / "README.md"
    results = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    before = readme.read_text(encoding="utf-8")
    after = replace(before, render(results, str(path.relative_to(ROOT))), BEGIN, END)
    if arguments.check:
        return int(after != before)
    readme.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
