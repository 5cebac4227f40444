"""Tables, sizes and the progress bar."""

import io
import sys

from hypothesis import given
from hypothesis import strategies as st

from lepton_edge.cli.output import Progress, facts, shorten, size, table

cells = st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=60)


def test_a_table_aligns_names_left_and_numbers_right() -> None:
    assert table(["tensor", "bits"], [["a", "4.5"], ["long name", "16"]]) == (
        "tensor     bits\n---------  ----\na           4.5\nlong name    16"
    )


@given(st.lists(st.tuples(cells, st.integers(0, 10**9)), max_size=5))
def test_a_table_fits_the_width(rows: list[tuple[str, int]]) -> None:
    text = table(["name", "n", "m"], [[name, str(n), str(n)] for name, n in rows], width=50)
    assert all(len(line) <= 50 for line in text.split("\n"))


def test_the_widest_soft_column_is_shortened() -> None:
    rows = [["a" * 30, "1", "b" * 40, "c" * 10]]
    line = table(["x", "n", "y", "z"], rows, "<><<", width=60, soft=[0, 2, 3]).split("\n")[2]
    assert [len(cell) for cell in line.split()] == [21, 1, 22, 10] and len(line) == 60
    assert max(map(len, table(["n", "m"], [["1" * 50, "2" * 50]], ">>", soft=[]).split("\n"))) == 102


def test_shorten_keeps_both_ends() -> None:
    assert shorten("model.layers.0.mlp.up_proj", 12) == "model..proj"[:5] + ".." + "_proj"
    assert shorten("short", 12) == "short"


def test_sizes() -> None:
    assert [size(n) for n in (0, 999, 1500, 723_400_000, 2.5e9, 3e12)] == [
        "0 B", "999 B", "1.5 KB", "723.4 MB", "2.5 GB", "3.0 TB",
    ]  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_is_drawn_on_terminals_only(monkeypatch) -> None:
    for stream, expected in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        progress = Progress()
        progress(1, 2, "x" * 200)
        drawn = stream.getvalue()
        progress.close()
        assert ("50%" in drawn) is expected
        assert len(drawn) <= 80
        assert stream.getvalue().endswith("\r") is expected


def test_facts_wrap_at_spaces_only() -> None:
    text = facts({"a": "one", "label": "two-part words " + "x" * 30 + " end", "b": ""}, width=24)
    assert text == "a      one\nlabel  two-part words\n       " + "x" * 30 + "\n       end\nb"
