"""From texts to what a model computes of them: the steps that all tasks begin with."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lepton_edge.errors import ContextLengthError, RequestError

if TYPE_CHECKING:
    from lepton_edge.models.spec import Head
    from lepton_edge.tasks.mixin import Tasks
    from lepton_edge.text.pairs import Encoded

__all__ = ["EMPTY", "encode", "fits", "need_head", "pair_of", "run", "sigmoid", "softmax"]

EMPTY = "the text is empty, and this model's tokenizer adds no token to it; expected some text"
HEADS = {
    "classes": ("a classifier of whole texts", "ForSequenceClassification"),
    "tokens": ("a classifier of tokens", "ForTokenClassification"),
    "span": ("a head that finds answers", "ForQuestionAnswering"),
    "mask": ("a head for masked tokens", "ForMaskedLM"),
}


def need_head(model: Tasks, kind: str, task: str) -> Head:
    """The model's head of that kind.  Raises RequestError where it has another, or none."""
    head = model.spec.head
    if head is None or head.kind != kind:
        what, ending = HEADS[kind]
        has = "has none" if head is None else f"has {HEADS[head.kind][0]}"
        raise RequestError(
            f"{task} needs {what} (an architecture …{ending}), and the model {model.folder.name} {has}; load another"
        )
    return head


def pair_of(row: Any) -> tuple[str, str | None]:
    """The text of a row and, of a pair, the second one: a string, two in a list or tuple, or a dict with 'text' and
    'text_pair'.  RequestError for anything else."""
    if isinstance(row, str):
        return row, None
    if isinstance(row, list | tuple) and len(row) == 2 and all(isinstance(text, str) for text in row):
        return row[0], row[1]
    if isinstance(row, dict) and isinstance(row.get("text"), str) and row.keys() <= {"text", "text_pair"}:
        return row["text"], row.get("text_pair")
    raise RequestError(
        f"{reprlib.repr(row)} is no text; expected a string, two strings, or a dict with 'text' and 'text_pair'"
    )


def encode(model: Tasks, text: Any, pair: str | None = None) -> Encoded:
    """A text, or two, as tokens.  RequestError where there are none."""
    found = model.tokenizer.encode_pair(text, pair)
    if not len(found):
        raise RequestError(EMPTY)
    return found


def fits(model: Tasks, encoded: Encoded, advice: str) -> Encoded:
    """The same tokens.  ContextLengthError, which gives the advice, where they are more than the context."""
    if len(encoded) > model.context:
        raise ContextLengthError(f"the text has {len(encoded)} tokens, but the context holds {model.context}; {advice}")
    return encoded


def run(model: Tasks, encoded: Sequence[Encoded], hidden: bool = False) -> list[NDArray[np.float32]]:
    """What the model gives of each: as `Model.run`."""
    types = [item.types for item in encoded] if model.token_types else None
    return model.run([item.ids for item in encoded], types, hidden)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Along the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / (1 + exp(-x)), which no number makes overflow."""
    return np.exp(-np.logaddexp(np.float32(0), -logits))
