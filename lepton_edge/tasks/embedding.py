"""Texts to vectors, as sentence-transformers' `encode` makes them, and how alike they are."""

from __future__ import annotations

import contextlib
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lepton_edge.errors import LeptonError, RequestError
from lepton_edge.generate.params import whole
from lepton_edge.tasks.rows import ERRORS, RowError, is_one, run_rows
from lepton_edge.tasks.sentence_folder import Dense, SentenceFolder
from lepton_edge.tasks.texts import encode, run, sigmoid
from lepton_edge.text.pairs import Encoded, cut

if TYPE_CHECKING:
    from lepton_edge.tasks.mixin import Tasks

__all__ = ["compare", "embed", "pooled", "unit"]

Floats = NDArray[np.float32]
TOGETHER = 256  # texts that are tokenized together: Ctrl-C waits for them


@dataclass(frozen=True)
class _Job:
    """`rows.Work`.  prompt: text before each.  skip: tokens of it that are not pooled.  known: tokens of texts."""

    model: Tasks
    settings: SentenceFolder
    prompt: str
    skip: int
    finish: Callable[[Floats], Floats]
    known: dict[str, Encoded] = field(default_factory=dict)

    def prepare(self, row: Any) -> Encoded:
        if not isinstance(row, str):
            raise RequestError(f"the text is {reprlib.repr(row)}; expected a string")
        return _encode(self.model, self.settings, self.prompt + row, self.known)

    def learn(self, rows: Sequence[Any]) -> None:
        """Find the tokens of many rows together, which is faster.  What cannot be read is left to `prepare`."""
        texts = [_spelled(self.settings, self.prompt + row) for row in rows if isinstance(row, str)]
        for start in range(0, len(texts), TOGETHER):
            part = texts[start : start + TOGETHER]
            with contextlib.suppress(LeptonError):
                self.known.update(zip(part, self.model.tokenizer.encode_texts(part), strict=True))

    def run(self, ready: Sequence[Encoded]) -> Sequence[Floats]:
        states = run(self.model, ready, hidden=True)
        return list(self.finish(np.stack([pooled(found, self.settings.modes, self.skip) for found in states])))


def embed(
    model: Tasks,
    texts: Any,
    *,
    batch_size: int = 32,
    normalize: bool | None = None,
    truncate_dim: int | None = None,
    prompt: str | None = None,
    prompt_name: str | None = None,
    errors: str = "raise",
    progress: Callable[[int, int], None] | None = None,
) -> Floats:
    """See `Tasks.embed`."""
    settings, hidden = model.sentence_folder, model.spec.hidden
    if errors not in ERRORS or not isinstance(normalize, bool | None):
        raise RequestError("expected errors='raise' or 'return', and normalize=True, False or None")
    batch_size = whole("batch_size", batch_size, 1)
    before = _prompt(settings, prompt, prompt_name)
    dim = settings.truncate_dim if truncate_dim is None else whole("truncate_dim", truncate_dim, 1)
    skip = 0 if settings.include_prompt or not before else _prompt_length(model, settings, before)
    job = _Job(model, settings, before, skip, lambda found: _finish(settings, found, normalize, dim))
    if isinstance(texts, str):
        found: Floats = run_rows(job, [texts], 1, where="")[0]
        return found
    if is_one(texts):
        raise RequestError(f"texts is {reprlib.repr(texts)}; expected a string, or several")
    texts = list(texts)
    if len(texts) > 1:
        job.learn(texts)
    rows = run_rows(job, texts, batch_size, keep=errors == "return", progress=progress)
    width = next((len(row) for row in rows if not isinstance(row, RowError)), None)
    if width is None:
        width = len(job.finish(np.zeros((1, hidden * len(settings.modes)), np.float32))[0])
    out = np.full((len(rows), width), np.nan, np.float32)
    for i, row in enumerate(rows):
        if not isinstance(row, RowError):
            out[i] = row
    return out


def _encode(model: Tasks, settings: SentenceFolder, text: str, known: Mapping[str, Encoded] = MappingProxyType({})
            ) -> Encoded:  # fmt: skip
    text = _spelled(settings, text)
    return cut(known.get(text) or encode(model, text), min(model.context, settings.most or model.context))


def _spelled(settings: SentenceFolder, text: str) -> str:
    """A text as it is tokenized."""
    return text.lower() if settings.lower else text


def _prompt(settings: SentenceFolder, prompt: str | None, name: str | None) -> str:
    """The text before each text."""
    if prompt is not None:
        if not isinstance(prompt, str):
            raise RequestError(f"prompt is {reprlib.repr(prompt)}; expected a text")
        return prompt
    name = settings.default_prompt if name is None else name
    if name is None:
        return ""
    if not isinstance(name, str) or name not in settings.prompts:
        known = ", ".join(settings.prompts) or "none"
        raise RequestError(f"prompt_name is {reprlib.repr(name)}; this model's prompts are: {known}")
    return settings.prompts[name]


def _prompt_length(model: Tasks, settings: SentenceFolder, prompt: str) -> int:
    """Tokens that a prompt has by itself, without one that ends it."""
    found = _encode(model, settings, prompt)
    return len(found) - (found.texts[-1] is None)


def pooled(states: Floats, modes: Sequence[str], skip: int = 0) -> Floats:
    """One vector of the states float32 [T, H] of a text, from token `skip` on: float32 [H x number of modes]."""
    kept = states[skip:]
    if not len(kept):
        kept = states[:1] * 0 if "max" not in modes else states[:1]
    weights = np.arange(skip + 1, skip + 1 + len(kept), dtype=np.float32)
    found = {
        "cls": lambda: kept[0],
        "max": lambda: kept.max(axis=0),
        "mean": lambda: kept.sum(axis=0) / len(kept),
        "mean_sqrt_len_tokens": lambda: kept.sum(axis=0) / np.float32(np.sqrt(len(kept))),
        "weightedmean": lambda: (kept * weights[:, None]).sum(axis=0) / weights.sum(),
        "lasttoken": lambda: kept[-1],
    }
    return np.concatenate([found[mode]() for mode in modes])


def _finish(settings: SentenceFolder, found: Floats, normalize: bool | None, dim: int | None) -> Floats:
    """What follows the pooling, for float32 [n, H]."""
    for step in settings.steps:
        if isinstance(step, Dense):
            found = _dense(step, found)
        elif normalize is not False:
            found = unit(found)
    found = found[:, :dim]
    return unit(found) if normalize else found


def _dense(step: Dense, x: Floats) -> Floats:
    y = x @ step.weight.T
    y = y if step.bias is None else y + step.bias
    if step.activation == "Tanh":
        return np.tanh(y)
    if step.activation == "ReLU":
        return np.maximum(y, 0)
    if step.activation == "Sigmoid":
        return sigmoid(y)
    if step.activation == "SiLU":
        return y * sigmoid(y)
    if step.activation == "GELU":
        import math

        return (y * 0.5 * (1 + np.vectorize(math.erf)(y / math.sqrt(2)))).astype(np.float32)
    return y


def unit(x: Floats) -> Floats:
    """Rows of length 1; zeros stay zeros."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), np.float32(1e-12))


def compare(model: Tasks, a: Any, b: Any) -> Floats:
    """See `Tasks.similarity`."""
    kind = model.sentence_folder.similarity
    x, y = (_vectors(model, name, value) for name, value in (("a", a), ("b", b)))
    if x.shape[1] != y.shape[1]:
        raise RequestError(f"a has vectors of {x.shape[1]} numbers, and b of {y.shape[1]}; expected the same")
    if kind == "cosine":
        x, y = unit(x), unit(y)
    if kind in ("cosine", "dot"):
        return x @ y.T
    order, out = 2 if kind == "euclidean" else 1, np.empty((len(x), len(y)), np.float32)
    for i, row in enumerate(x):
        out[i] = -np.linalg.norm(row - y, ord=order, axis=1)
    return out


def _vectors(model: Tasks, name: str, value: Any) -> Floats:
    """float32 [n, d] of vectors, or of texts."""
    if isinstance(value, str) or (isinstance(value, list | tuple) and value and isinstance(value[0], str)):
        value = model.embed(value)
    try:
        found = np.atleast_2d(np.asarray(value, np.float32))
    except (TypeError, ValueError):
        raise RequestError(f"{name} is {reprlib.repr(value)}; expected texts or embeddings") from None
    if found.ndim != 2:
        raise RequestError(f"{name} has {found.ndim} dimensions; expected embeddings [n, d]")
    return found
