"""Documents in the order of what a cross-encoder thinks of them for a query (arXiv:1910.14424)."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_edge.errors import RequestError, UnsupportedModelError
from lepton_edge.generate.params import whole
from lepton_edge.tasks.rows import ERRORS, RowError, run_rows
from lepton_edge.tasks.texts import encode, need_head, run, sigmoid
from lepton_edge.text.pairs import Encoded, cut_longest

if TYPE_CHECKING:
    from lepton_edge.tasks.mixin import Tasks

__all__ = ["rank"]


@dataclass(frozen=True)
class _Pairs:
    """`rows.Work`."""

    model: Tasks
    query: str

    def prepare(self, row: Any) -> Encoded:
        if not isinstance(row, str):
            raise RequestError(f"the document is {reprlib.repr(row)}; expected a string")
        return cut_longest(encode(self.model, self.query, row), self.model.context)

    def run(self, ready: Sequence[Encoded]) -> Sequence[float]:
        logits = np.stack(run(self.model, ready))[:, 0]
        return [float(score) for score in (sigmoid(logits) if _activation(self.model) == "Sigmoid" else logits)]


def _activation(model: Tasks) -> str:
    """'Sigmoid' or 'Identity': what config.json asks for, as sentence-transformers writes it."""
    settings = model.config.get("sentence_transformers")
    named = settings.get("activation_fn") if isinstance(settings, dict) else None
    named = named or model.config.get("sbert_ce_default_activation_function") or "Sigmoid"
    kind = str(named).rpartition(".")[2]
    if kind not in ("Sigmoid", "Identity"):
        raise UnsupportedModelError(
            f"{model.folder / 'config.json'}: a cross-encoder's activation {reprlib.repr(named)} is not supported; "
            "expected torch.nn's Sigmoid or Identity"
        )
    return kind


def rank(
    model: Tasks, query: str, documents: Any, top_k: int | None, batch_size: int, errors: str, progress: Any
) -> list[dict[str, Any]]:
    """See `Tasks.rank`."""
    head = need_head(model, "classes", "rank")
    if head.outputs != 1:
        raise RequestError(
            f"rank needs a cross-encoder, a classifier with one output; {model.folder.name} has {head.outputs}"
        )
    if not isinstance(query, str):
        raise RequestError(f"query is {reprlib.repr(query)}; expected a string")
    if isinstance(documents, str) or not isinstance(documents, Iterable) or errors not in ERRORS:
        raise RequestError("expected several documents, and errors='raise' or 'return'")
    encode(model, query)
    top_k = None if top_k is None else whole("top_k", top_k, 1)
    texts = list(documents)
    scores = run_rows(
        _Pairs(model, query), texts, whole("batch_size", batch_size, 1), keep=errors == "return", progress=progress,
        where="document {}: ",
    )  # fmt: skip
    good = [(i, score) for i, score in enumerate(scores) if not isinstance(score, RowError)]
    good.sort(key=lambda pair: -pair[1])
    found = [{"corpus_id": i, "score": score, "text": texts[i]} for i, score in good[:top_k]]
    bad = [(i, row.error) for i, row in enumerate(scores) if isinstance(row, RowError)]
    return found + [{"corpus_id": i, "error": str(error)} for i, error in bad]
