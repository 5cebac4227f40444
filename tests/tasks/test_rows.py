"""Rows in batches: their order, their errors, and what is no row's fault."""

from collections.abc import Sequence
from typing import Any

import pytest

from lepton_edge.errors import Cancelled, ConfigError, RequestError
from lepton_edge.tasks.rows import answer_rows


class Upper:
    """`rows.Work`: capitals of texts; remembers its batches."""

    def __init__(self, error: type[Exception] = RequestError) -> None:
        self.error = error
        self.batches: list[list[str]] = []

    def prepare(self, row: Any) -> str:
        if not isinstance(row, str):
            raise self.error(f"{row} is no text")
        return row

    def run(self, ready: Sequence[str]) -> Sequence[str]:
        self.batches.append(list(ready))
        return [text.upper() for text in ready]


def test_answers_come_in_the_order_of_the_rows_and_are_made_longest_first() -> None:
    work = Upper()
    assert answer_rows(work, ["a", "bbb", "cc", "dddd"], batch_size=2) == ["A", "BBB", "CC", "DDDD"]
    assert work.batches == [["dddd", "bbb"], ["cc", "a"]]
    assert answer_rows(work, "x") == "X" and answer_rows(work, []) == [] and answer_rows(work, ("a",)) == ["A"]


def test_an_iterator_may_have_no_end() -> None:
    def rows() -> Any:
        while True:
            yield "a"

    found = answer_rows(Upper(), rows(), batch_size=3)
    assert [next(found) for _ in range(7)] == ["A"] * 7


def test_bad_rows_say_which_they_are() -> None:
    assert answer_rows(Upper(), ["a", 3, "b"], errors="return") == ["A", {"error": "3 is no text"}, "B"]
    with pytest.raises(RequestError, match=r"^row 1: 3 is no text$"):
        answer_rows(Upper(), ["a", 3, "b"])
    with pytest.raises(RequestError, match=r"^3 is no text$"):
        answer_rows(Upper(), 3)
    with pytest.raises(RequestError, match=r"^row 4: 3 is no text$"):
        list(answer_rows(Upper(), iter(["a", "b", "c", "d", 3]), batch_size=2))


@pytest.mark.parametrize("error", [ConfigError, Cancelled])
def test_what_is_no_fault_of_a_row_is_raised(error: type[Exception]) -> None:
    with pytest.raises(error):
        answer_rows(Upper(error), ["a", 3], errors="return")


@pytest.mark.parametrize(("name", "value"), [("batch_size", 0), ("batch_size", True), ("errors", 1)])
def test_wrong_options(name: str, value: Any) -> None:
    with pytest.raises(RequestError, match=f"{name} is {value}; expected"):
        answer_rows(Upper(), ["a"], **{name: value})
