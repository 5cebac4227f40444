"""Several models asked as one: classifiers of any architecture, embedders, or decoders that share a vocabulary."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lepton_edge.errors import RequestError
from lepton_edge.generate.params import whole
from lepton_edge.tasks.classification import Classes
from lepton_edge.tasks.embedding import unit
from lepton_edge.tasks.rows import is_one, run_rows
from lepton_edge.tasks.texts import encode, fits, need_head, pair_of, run, sigmoid, softmax

if TYPE_CHECKING:
    from lepton_edge.tasks.mixin import Tasks

__all__ = ["METHODS", "Ensemble"]

METHODS = ("mean", "logits", "vote", "stack")
ROUNDS = 200  # of fitting; the weights move by less than 1e-6 long before

Floats = NDArray[np.float32]


class _Logits(Classes):
    """Each row's numbers as the head gives them."""

    def run(self, ready: Sequence[Any]) -> Sequence[Any]:
        return run(self.model, ready)


class Ensemble:
    """Models whose answers are combined.

    method: 'mean' of probabilities; 'logits', the mean of the numbers before the softmax; 'vote', each model has one
    vote for its likeliest label; 'stack', the mean of probabilities with weights that `fit` finds on labelled rows.

    Attributes:
        weights: of the models, float64 [M], which sum to 1.
    """

    def __init__(
        self, models: Sequence[Tasks], weights: Sequence[float] | None = None, method: str = "mean"
    ) -> None:
        """Raises RequestError for no model, wrong weights or an unknown method."""
        if not isinstance(models, Iterable):
            raise RequestError(f"models is {reprlib.repr(models)}; expected a list of models")
        self.models = list(models)
        if not self.models:
            raise RequestError("models is empty; expected at least one model")
        if method not in METHODS:
            raise RequestError(f"method is {reprlib.repr(method)}; expected one of {', '.join(METHODS)}")
        self.method = method
        self._fitted = method != "stack" or weights is not None
        self.weights = self._read(weights)

    def _read(self, weights: Sequence[float] | None) -> NDArray[np.float64]:
        count = len(self.models)
        try:
            found = np.ones(count) if weights is None else np.array(weights, np.float64)
        except (TypeError, ValueError):
            found = np.empty(0)
        if found.shape != (count,) or not np.isfinite(found).all() or (found < 0).any() or not found.sum() > 0:
            raise RequestError(f"weights is {reprlib.repr(weights)}; expected {count} numbers, none below 0, not all 0")
        return found / found.sum()

    # -- classifiers -------------------------------------------------------------------------------------------------

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, as the first model orders them.  RequestError where another model has others."""
        first = need_head(self.models[0], "classes", "an ensemble of classifiers")
        for model in self.models:
            head = need_head(model, "classes", "an ensemble of classifiers")
            if set(head.labels) != set(first.labels) or head.several != first.several or model.regression:
                known = self.models[0].folder.name
                raise RequestError(
                    f"{model.folder.name} has the labels {', '.join(head.labels[:10])}, and {known} "
                    f"{', '.join(first.labels[:10])}; expected the same ones, and no regression"
                )
        return first.labels

    def classify(self, texts: Any, top_k: int | None = 1, truncate: bool = False, batch_size: int = 32) -> Any:
        """The likeliest labels, as `Model.classify`: of one text, or of several."""
        labels = self.labels
        top_k = None if top_k is None else whole("top_k", top_k, 1)
        if not self._fitted:
            raise RequestError("the method 'stack' needs weights; call fit(texts, labels) first, or give some")
        rows = [texts] if is_one(texts) else list(texts)
        found = []
        for scores in self._combined(self._numbers(rows, truncate, batch_size)):
            order = np.argsort(-scores, kind="stable")[:top_k]
            found.append([{"label": labels[i], "score": float(scores[i])} for i in order])
        return found[0] if is_one(texts) else found

    def fit(self, texts: Sequence[Any], labels: Sequence[str], truncate: bool = False) -> NDArray[np.float64]:
        """The weights that make the labels of some texts likeliest (mixture weights, by expectation maximisation).

        Raises:
            RequestError: no text, a label that is none, labels that do not exclude each other, or another method.
        """
        names, head = self.labels, need_head(self.models[0], "classes", "fit")
        if self.method != "stack" or head.several:
            raise RequestError("fit is for the method 'stack', and labels that exclude each other")
        rows, wanted = list(texts), list(labels)
        wrong = next((label for label in wanted if label not in names), None)
        if not rows or len(rows) != len(wanted) or wrong is not None:
            raise RequestError(f"{len(rows)} texts, {len(wanted)} labels (not known: {wrong!r}); expected one for each")
        shares = self._shares(self._numbers(rows, truncate, 32)).astype(np.float64)
        right = shares[:, np.arange(len(rows)), [names.index(label) for label in wanted]] + 1e-12
        weights = np.full(len(self.models), 1 / len(self.models))
        for _ in range(ROUNDS):
            parts = weights[:, None] * right
            weights = (parts / parts.sum(axis=0)).mean(axis=1)
        self.weights, self._fitted = weights, True
        return weights

    def _numbers(self, rows: list[Any], truncate: bool, batch_size: int) -> Floats:
        """What the heads give, in the order of `labels`: float32 [M, n, labels]."""
        labels, found = self.labels, []
        for model in self.models:
            head = need_head(model, "classes", "an ensemble of classifiers")
            order = [head.labels.index(label) for label in labels]
            logits = run_rows(_Logits(model, truncate), rows, whole("batch_size", batch_size, 1))
            found.append(np.reshape(np.stack(logits) if rows else [], (-1, len(order)))[:, order].astype(np.float32))
        return np.stack(found)

    def _shares(self, logits: Floats) -> Floats:
        head = need_head(self.models[0], "classes", "this")
        return sigmoid(logits) if head.several or head.outputs == 1 else softmax(logits)

    def _combined(self, logits: Floats) -> Floats:
        """The ensemble's probabilities float32 [n, labels]."""
        weights = self.weights.astype(np.float32)[:, None, None]
        if self.method == "logits":
            return self._shares((weights * logits).sum(axis=0))
        shares = self._shares(logits)
        if self.method == "vote":
            head = need_head(self.models[0], "classes", "this")
            alone = head.several or head.outputs == 1
            shares = (shares >= 0.5 if alone else shares == shares.max(axis=-1, keepdims=True)).astype(np.float32)
        return (weights * shares).sum(axis=0)

    # -- embedders and decoders --------------------------------------------------------------------------------------

    def embed(self, texts: Any, **options: Any) -> Floats:
        """The weighted vectors of all models, each of length 1, one behind the other, of length 1 again: float32.

        Cosines of two texts are then the models' cosines, weighed by the squares of the weights.  options: of
        `Model.embed`.
        """
        parts = [w * unit(model.embed(texts, **options)) for w, model in zip(self.weights, self.models, strict=True)]
        return unit(np.concatenate(parts, axis=-1).astype(np.float32))

    def logits(self, token_ids: Sequence[int]) -> Floats:
        """Of decoders: the log of the mean of their next tokens' probabilities, or the mean of logits: float32 [T, V].

        Raises:
            RequestError: a model is an encoder, or has another vocabulary.
        """
        self._check_decoders()
        return self._next(np.stack([model.logits(token_ids) for model in self.models]))

    def generate(self, prompt: str, max_tokens: int = 64) -> str:
        """The likeliest next tokens, one after the other; the first model's tokenizer reads and writes."""
        self._check_decoders()
        tokenizer = self.models[0].tokenizer
        ids = fits(self.models[0], encode(self.models[0], pair_of(prompt)[0]), "shorten it").ids
        room = min(model.context for model in self.models) - len(ids)
        made: list[int] = []
        with ExitStack() as stack:
            sequences = [stack.enter_context(closing(model._shared.begin(adapter=None))) for model in self.models]
            for sequence in sequences:
                sequence.open()
            part = ids
            for _ in range(min(whole("max_tokens", max_tokens, 1), room)):
                scores = []
                for sequence in sequences:
                    for start in range(0, len(part), size := sequence.shared.engine.max_batch):
                        tokens = np.array(part[start : start + size], np.int32)
                        logits = sequence.feed(tokens, np.array([len(tokens) - 1], np.int32))
                    scores.append(logits)
                best = int(self._next(np.stack(scores))[0].argmax())
                if best in tokenizer.eos_ids:
                    break
                made.append(best)
                part = [best]
        return tokenizer.decode(ids + made)[len(tokenizer.decode(ids)) :]

    def _next(self, logits: Floats) -> Floats:
        weights = self.weights.astype(np.float32)[:, None, None]
        if self.method == "logits":
            return (weights * logits).sum(axis=0)
        return np.log(np.maximum((weights * softmax(logits)).sum(axis=0), np.float32(1e-38)))

    def _check_decoders(self) -> None:
        if self.method not in ("mean", "logits"):
            raise RequestError(f"decoders are combined by 'mean' or 'logits', not by {self.method!r}")
        first = self.models[0]
        for model in self.models:
            if not model.spec.causal or model.spec.vocab != first.spec.vocab:
                raise RequestError(
                    f"{model.folder.name} is no decoder with the vocabulary of {first.folder.name}; expected decoders "
                    "that share one"
                )
