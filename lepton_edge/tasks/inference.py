"""Rows of data to answers of the shape that the model's folder asks for in lepton.json."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_edge.errors import RequestError
from lepton_edge.generate.params import whole
from lepton_edge.tasks.answer_fields import Answers
from lepton_edge.tasks.classification import Classes
from lepton_edge.tasks.rows import ERRORS, RowError, is_one, run_rows
from lepton_edge.text.pairs import Encoded

if TYPE_CHECKING:
    from lepton_edge.tasks.mixin import Tasks

__all__ = ["inference"]


@dataclass(frozen=True)
class _Rows(Classes):
    """Finds the texts in a row."""

    answers: Answers

    def prepare(self, row: Any) -> Encoded:
        found = _fields(row, self.answers)
        texts = [self._text(found, name) for name in (self.answers.text, self.answers.pair) if name is not None]
        return super().prepare(texts[0] if len(texts) == 1 else texts)

    def _text(self, row: Mapping[str, Any], name: str) -> str:
        if name not in row:
            raise RequestError(f"the row has no field {name!r}, only {reprlib.repr(list(row))}; expected a text there")
        text = row[name]
        if not isinstance(text, str):
            raise RequestError(f"the row's {name!r} is {reprlib.repr(text)}; expected a text")
        return text


def _fields(row: Any, answers: Answers) -> Mapping[str, Any]:
    """A row as a dict; a string is its text."""
    if isinstance(row, str):
        return {answers.text: row}
    if not isinstance(row, Mapping):
        raise RequestError(f"the row is {reprlib.repr(row)}; expected a dict with a field {answers.text!r}, or a text")
    return row


def inference(model: Tasks, rows: Any, batch_size: int, errors: str, progress: Any) -> Any:
    """See `Tasks.inference`."""
    answers = model.answers
    if errors not in ERRORS:
        raise RequestError(f"errors is {reprlib.repr(errors)}; expected 'raise' or 'return'")
    size, keep = whole("batch_size", batch_size, 1), errors == "return"
    work = _Rows(model, answers.truncate, answers)

    def some(part: Sequence[Any], where: str = "row {}: ", first: int = 0) -> list[dict[str, Any]]:
        found = run_rows(work, part, size, keep=keep, where=where, first=first, progress=progress)
        return [_answer(answers, row, scores) for row, scores in zip(part, found, strict=True)]

    def online() -> Iterator[dict[str, Any]]:
        for i, row in enumerate(rows):
            yield from some([row], first=i)

    if is_one(rows) or isinstance(rows, Mapping):
        return some([rows], where="")[0]
    return some(rows) if isinstance(rows, list | tuple) else online()


def _answer(answers: Answers, row: Any, scores: Any) -> dict[str, Any]:
    if isinstance(scores, RowError):
        passed = answers.pass_on(row) if isinstance(row, Mapping) else {}
        return {**passed, "error": str(scores.error)}
    return {**answers.pass_on(_fields(row, answers)), **answers.fill(scores)}
