"""Labels of texts: by a classifier's head, or zero-shot by one that was trained on inference (arXiv:1909.00161)."""

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
from lepton_edge.tasks.texts import encode, fits, need_head, pair_of, run, sigmoid, softmax
from lepton_edge.text.pairs import Encoded, cut, cut_longest

if TYPE_CHECKING:
    from lepton_edge.tasks.mixin import Tasks

__all__ = ["ADVICE", "Classes", "classify", "probabilities", "zero_shot"]

ADVICE = "shorten it, or pass truncate=True, which cuts it"
TEMPLATE = "This example is {}."

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Classes:
    """`rows.Work`: each row's probabilities, float32 [labels]."""

    model: Tasks
    truncate: bool

    def prepare(self, row: Any) -> Encoded:
        found = encode(self.model, *pair_of(row))
        return cut_longest(found, self.model.context) if self.truncate else fits(self.model, found, ADVICE)

    def run(self, ready: Sequence[Encoded]) -> Sequence[Any]:
        return list(probabilities(self.model, np.stack(run(self.model, ready))))


@dataclass(frozen=True)
class _Best(Classes):
    """The likeliest labels."""

    top_k: int | None

    def run(self, ready: Sequence[Encoded]) -> Sequence[Any]:
        head = self.model.spec.head
        assert head is not None
        return [_best(head.labels, scores, self.top_k) for scores in super().run(ready)]


def _best(labels: Sequence[str], scores: Floats, top_k: int | None) -> list[dict[str, Any]]:
    order = np.argsort(-scores, kind="stable")[:top_k]
    return [{"label": labels[i], "score": float(scores[i])} for i in order]


def probabilities(model: Tasks, logits: Floats) -> Floats:
    """What the numbers of a classifier's head float32 [n, labels] mean, by the rules of transformers' pipeline.

    The numbers themselves where problem_type is regression; a sigmoid of each where labels do not exclude each other,
    or there is but one; else a softmax.
    """
    head = need_head(model, "classes", "this")
    if model.regression:
        return logits
    return sigmoid(logits) if head.several or head.outputs == 1 else softmax(logits)


def classify(
    model: Tasks, texts: Any, top_k: int | None, truncate: bool, batch_size: int, errors: str, progress: Any
) -> Any:
    """See `Tasks.classify`."""
    need_head(model, "classes", "classify")
    top_k = None if top_k is None else whole("top_k", top_k, 1)
    work = _Best(model, _flag("truncate", truncate), top_k)
    return answer_rows(work, texts, batch_size=batch_size, errors=errors, progress=progress)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise RequestError(f"{name} is {reprlib.repr(value)}; expected True or False")
    return value


class _Hypotheses(list[Encoded]):
    """A text with each label's hypothesis."""


@dataclass(frozen=True)
class _ZeroShot:
    """`rows.Work`."""

    model: Tasks
    labels: tuple[str, ...]
    hypotheses: tuple[str, ...]
    several: bool
    top_k: int | None
    entails: int
    contradicts: int

    def prepare(self, row: Any) -> _Hypotheses:
        if not isinstance(row, str):
            raise RequestError(f"the text is {reprlib.repr(row)}; expected a string")
        return _Hypotheses(cut(encode(self.model, row, text), self.model.context) for text in self.hypotheses)

    def run(self, ready: Sequence[_Hypotheses]) -> Sequence[Any]:
        logits = np.stack(run(self.model, [item for row in ready for item in row]))
        logits = logits.reshape(len(ready), len(self.labels), -1)
        if self.several or len(self.labels) == 1:
            scores = softmax(logits[..., [self.contradicts, self.entails]])[..., 1]
        else:
            scores = softmax(logits[..., self.entails])
        return [_best(self.labels, row, self.top_k) for row in scores]


def zero_shot(
    model: Tasks, texts: Any, labels: Any, hypothesis: str | None, several: bool, top_k: int | None, batch_size: int,
    errors: str, progress: Any,
) -> Any:  # fmt: skip
    """See `Tasks.classify`."""
    head = need_head(model, "classes", "classify with labels")
    listed = [labels] if isinstance(labels, str) else labels
    good = isinstance(listed, list | tuple) and listed and all(isinstance(label, str) and label for label in listed)
    if not good:
        raise RequestError(f"labels is {reprlib.repr(labels)}; expected a list of labels, none empty")
    template = TEMPLATE if hypothesis is None else hypothesis
    if not isinstance(template, str) or template.count("{}") != 1:
        raise RequestError(f"hypothesis is {reprlib.repr(template)}; expected a text with one {{}} for the label")
    entails = next((i for i, label in enumerate(head.labels) if label.lower().startswith("entail")), None)
    if entails is None or head.outputs < 2:
        raise RequestError(
            f"labels need a model of inference, whose labels have one that begins with 'entail'; {model.folder.name} "
            f"has {', '.join(head.labels[:5])}; load another, or leave labels out"
        )
    work = _ZeroShot(
        model, tuple(listed), tuple(template.replace("{}", label) for label in listed), _flag("several", several),
        None if top_k is None else whole("top_k", top_k, 1), entails, head.outputs - 1 if entails == 0 else 0,
    )  # fmt: skip
    return answer_rows(work, texts, batch_size=batch_size, errors=errors, progress=progress)
