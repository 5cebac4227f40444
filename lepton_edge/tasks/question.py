"""Where in a text the answer to a question stands: the pairs of beginnings and ends that a model thinks likeliest.

The rules are those of transformers' question-answering pipeline, which follows DrQA (arXiv:1704.00051).
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lepton_edge.errors import RequestError
from lepton_edge.generate.params import whole
from lepton_edge.tasks.rows import answer_rows
from lepton_edge.tasks.texts import encode, need_head, run
from lepton_edge.text.pairs import Encoded, windows

if TYPE_CHECKING:
    from lepton_edge.tasks.mixin import Tasks

__all__ = ["answer"]

LONGEST = 384  # tokens of a piece, unless asked for otherwise, and
SHARED = 128  # tokens that neighbours share
EXTRA = 10  # candidates more than are asked for, as several may be of the same words

Answer = dict[str, Any]


@dataclass(frozen=True)
class _Job:
    """A context and its pieces, each behind the question."""

    context: str
    pieces: list[Encoded]

    def __len__(self) -> int:
        return sum(map(len, self.pieces))


@dataclass(frozen=True)
class _Answers:
    """`rows.Work`.  most: tokens of a piece.  length: tokens of an answer.  empty: whether there may be none."""

    model: Tasks
    most: int
    stride: int
    top_k: int
    length: int
    empty: bool

    def prepare(self, row: Any) -> _Job:
        if not isinstance(row, dict) or row.keys() != {"question", "context"}:
            raise RequestError(f"{reprlib.repr(row)} is no question; expected a dict with 'question' and 'context'")
        for name, text in row.items():
            if not isinstance(text, str) or not text.strip():
                raise RequestError(f"the {name} is {reprlib.repr(text)}; expected a text that is not empty")
        found = encode(self.model, row["question"], row["context"])
        return _Job(row["context"], windows(found, self.most, self.stride, 1))

    def run(self, ready: Sequence[_Job]) -> Sequence[Any]:
        logits = iter(run(self.model, [piece for job in ready for piece in job.pieces]))
        return [self._best(job, [next(logits) for _ in job.pieces]) for job in ready]

    def _best(self, job: _Job, logits: list[NDArray[np.float32]]) -> Any:
        answers: dict[str, Answer] = {}
        nothing = 1.0
        for piece, scores in zip(job.pieces, logits, strict=True):
            inside = np.array([owner == 1 for owner in piece.texts])
            allowed = inside.copy()
            allowed[0] = True  # its place stands for no answer
            starts, ends = (_shares(scores[:, i], allowed) for i in (0, 1))
            nothing = min(nothing, float(starts[0] * ends[0]))
            starts[0] = ends[0] = 0
            for first, last, score in _spans(starts, ends, 2 * self.top_k + EXTRA, self.length):
                if not inside[first] or not inside[last]:
                    continue
                start, end = _characters(piece, first, last)
                words = job.context[start:end].lower()
                if words in answers:
                    answers[words]["score"] += score
                else:
                    answers[words] = {"score": score, "start": start, "end": end, "answer": job.context[start:end]}
        found = list(answers.values())
        if self.empty:
            found.append({"score": nothing, "start": 0, "end": 0, "answer": ""})
        found = sorted(found, key=lambda answer: -answer["score"])[: self.top_k]
        return (found or [{"score": 0.0, "start": 0, "end": 0, "answer": ""}])[0] if self.top_k == 1 else found


def _shares(logits: NDArray[np.float32], allowed: NDArray[np.bool_]) -> NDArray[np.float32]:
    """A softmax over the tokens that are allowed."""
    kept = np.where(allowed, logits, np.float32(-10000))
    powers = np.exp(kept - kept.max())
    return powers / powers.sum()


def _spans(
    starts: NDArray[np.float32], ends: NDArray[np.float32], count: int, length: int
) -> list[tuple[int, int, float]]:
    """The likeliest pairs of first and last tokens, `length` tokens long at most."""
    products = np.tril(np.triu(np.outer(starts, ends)), length - 1)
    flat = products.ravel()
    count = min(count, flat.size)
    best = np.argpartition(-flat, count - 1)[:count]
    best = best[np.argsort(-flat[best], kind="stable")]
    return [(int(i) // len(ends), int(i) % len(ends), float(flat[i])) for i in best]


def _characters(piece: Encoded, first: int, last: int) -> tuple[int, int]:
    """Where the words begin and end that two tokens of the second text lie in."""
    start, end = piece.offsets[first][0], piece.offsets[last][1]
    one, two = piece.words[first], piece.words[last]
    if one is None or two is None:
        return start, end
    places = [(piece.words[i], piece.offsets[i]) for i, owner in enumerate(piece.texts) if owner == 1]
    return min(at[0] for word, at in places if word == one), max(at[1] for word, at in places if word == two)


def answer(
    model: Tasks, rows: Any, *, top_k: int, stride: int | None, max_length: int | None, max_answer: int, empty: bool,
    batch_size: int, errors: str, progress: Any,
) -> Any:  # fmt: skip
    """See `Tasks.answer`."""
    need_head(model, "span", "answer")
    most = min(model.context, LONGEST) if max_length is None else whole("max_length", max_length, 1, model.context)
    shared = min(most // 2, SHARED) if stride is None else whole("stride", stride, 0)
    if not isinstance(empty, bool):
        raise RequestError(f"empty is {reprlib.repr(empty)}; expected True or False")
    work = _Answers(model, most, shared, whole("top_k", top_k, 1), whole("max_answer", max_answer, 1), empty)
    return answer_rows(work, rows, batch_size=batch_size, errors=errors, progress=progress)
