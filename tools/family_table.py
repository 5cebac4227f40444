"""Writes the README's table of families from the code: `python tools/family_table.py [--check]`.

The table stands between `<!-- families:begin -->` and `<!-- families:end -->`. `--check` changes nothing and exits with
1 when the README has another one.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lepton_edge.models.registry import READERS  # noqa: E402

__all__ = ["render", "replace"]

BEGIN, END = "<!-- families:begin -->", "<!-- families:end -->"


def render() -> str:
    """A row for each module of families: its architectures, and what its docstring says of them."""
    rows: dict[str, tuple[list[str], str]] = {}
    for architecture, read in sorted(READERS.items(), key=lambda item: item[0].lower()):
        text = " ".join((sys.modules[read.__module__].__doc__ or "").split()).rstrip(".")
        text = re.sub(r"arXiv:(\d{4}\.\d{5})", r"[\1](https://arxiv.org/abs/\1)", text)
        rows.setdefault(read.__module__, ([], text))[0].append(f"`{architecture}`")
    lines = [f"| {', '.join(architectures)} | {text} |" for architectures, text in rows.values()]
    return "\n".join(["| `architectures` in config.json | family |", "|---|---|", *lines])


def replace(readme: str) -> str:
    """`readme` with the table between the marker lines."""
    head, _, rest = readme.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not end:
        raise SystemExit(f"README.md: expected the lines {BEGIN} and {END}")
    return f"{head}{BEGIN}\n\n{render()}\n\n{END}{tail}"


def main() -> None:
    """Writes, or checks."""
    path = ROOT / "README.md"
    old = path.read_text(encoding="utf-8")
    new = replace(old)
    if "--check" in sys.argv[1:]:
        sys.exit(int(new != old))
    path.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
