"""One input, a list, or an iterator; several at a time; results in the order of the inputs, and bad ones apart."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from itertools import islice
from typing import Any, Protocol, TypeVar

import numpy as np

from lepton_edge.errors import LeptonError, RequestError
from lepton_edge.generate.params import whole

__all__ = ["ERRORS", "Ready", "RowError", "Work", "answer_rows", "is_one", "run_rows"]

ERRORS = ("raise", "return")

Progress = Callable[[int, int], None]
Ready = TypeVar("Ready", bound=Sized)


class RowError:
    """Stands where the answer of a row would be, that could not be given.  error: why."""

    def __init__(self, error: LeptonError) -> None:
        self.error = error


class Work(Protocol[Ready]):
    """What a task does with its rows: `prepare` one, which may fail by itself, and `run` several prepared ones."""

    def prepare(self, row: Any) -> Ready:
        """A row, checked and turned into tokens; LeptonError where that cannot be."""
        ...

    def run(self, ready: Sequence[Ready]) -> Sequence[Any]:
        """The answers, one for each."""
        ...


def is_one(rows: Any) -> bool:
    """Whether `rows` is one text or one dict, and not several."""
    return isinstance(rows, str | bytes | dict) or not isinstance(rows, Iterable)


def answer_rows(
    work: Work[Any], rows: Any, *, batch_size: int = 32, errors: str = "raise", progress: Progress | None = None
) -> Any:
    """The answer of one row, a list of answers of a list, or a generator of them for any other iterable.

    An iterable is read `batch_size` rows at a time.  errors: 'raise', or 'return': a bad row's answer is then
    {'error': message}, and the others are not lost.  progress: called with rows done and rows in all.
    """
    batch_size = whole("batch_size", batch_size, 1)
    if errors not in ERRORS:
        raise RequestError(f"errors is {reprlib.repr(errors)}; expected 'raise' or 'return'")
    keep = errors == "return"

    def given(found: list[Any]) -> list[Any]:
        return [{"error": str(item.error)} if isinstance(item, RowError) else item for item in found]

    if is_one(rows):
        return given(run_rows(work, [rows], 1, keep=keep, where=""))[0]
    if isinstance(rows, list | tuple | np.ndarray):
        return given(run_rows(work, list(rows), batch_size, keep=keep, progress=progress))
    return _online(work, iter(rows), batch_size, keep, given)


def _online(
    work: Work[Any], rows: Iterator[Any], size: int, keep: bool, given: Callable[[list[Any]], list[Any]]
) -> Iterator[Any]:
    start = 0
    while part := list(islice(rows, size)):
        yield from given(run_rows(work, part, size, keep=keep, first=start))
        start += len(part)


def run_rows(
    work: Work[Any],
    rows: Sequence[Any],
    size: int,
    *,
    keep: bool = False,
    progress: Progress | None = None,
    where: str = "row {}: ",
    first: int = 0,
) -> list[Any]:
    """The answers of all rows, computed with those of about their length, `size` at a time, the longest first.

    keep: a row that cannot be prepared or run gives a RowError; else its error is raised and says which row it was.
    where: what the message begins with.  first: the number of the first row.
    """
    found: list[Any] = [None] * len(rows)
    ready: list[tuple[int, Any]] = []

    def failed(i: int, error: LeptonError) -> None:
        if not keep or not isinstance(error, RequestError):
            raise type(error)(where.format(first + i) + str(error)) from error
        found[i] = RowError(error)

    for i, row in enumerate(rows):
        try:
            ready.append((i, work.prepare(row)))
        except LeptonError as error:
            failed(i, error)
    ready.sort(key=lambda pair: -len(pair[1]))
    done = len(rows) - len(ready)
    for start in range(0, len(ready), size):
        part = ready[start : start + size]
        for (i, _), answer in zip(part, work.run([item for _, item in part]), strict=True):
            found[i] = answer
        done += len(part)
        if progress is not None:
            progress(done, len(rows))
    return found
