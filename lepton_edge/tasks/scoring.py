"""How likely a decoder thinks texts are: log-probabilities of their tokens, and perplexity."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lepton_edge.errors import RequestError
from lepton_edge.generate.params import whole
from lepton_edge.tasks.rows import answer_rows
from lepton_edge.tasks.texts import fits

if TYPE_CHECKING:
    from lepton_edge.generate.shared import SharedEngine
    from lepton_edge.tasks.mixin import Tasks

__all__ = ["log_likelihoods", "perplexity", "score"]

CHUNK = 128  # tokens whose logits are in memory at a time


def log_likelihoods(shared: SharedEngine, ids: NDArray[np.int32]) -> NDArray[np.float64]:
    """The log-probability of each of ids int32 [T] but the first after those before it: float64 [T - 1]."""
    parts = []
    with closing(shared.begin()) as sequence:
        sequence.open()
        size = min(shared.engine.max_batch, CHUNK)
        for start in range(0, len(ids) - 1, size):
            part = ids[start : min(start + size, len(ids) - 1)]
            logits = sequence.feed(part, np.arange(len(part), dtype=np.int32)).astype(np.float64)
            peaks = logits.max(axis=1)
            sums = np.log(np.exp(logits - peaks[:, None]).sum(axis=1)) + peaks
            parts.append(logits[np.arange(len(part)), ids[start + 1 : start + 1 + len(part)]] - sums)
    return np.concatenate(parts) if parts else np.empty(0)


@dataclass(frozen=True)
class _Scores:
    """`rows.Work`."""

    model: Tasks

    def prepare(self, row: Any) -> NDArray[np.int32]:
        if not isinstance(row, str):
            raise RequestError(f"the text is {reprlib.repr(row)}; expected a string")
        found = self.model.tokenizer.encode_pair(row)
        fits(self.model, found, "shorten it, or measure it in windows: perplexity(text, context, stride)")
        if len(found) < 2:
            raise RequestError(f"the text has {len(found)} tokens; expected at least two: the first one is not scored")
        return np.array(found.ids, np.int32)

    def run(self, ready: Sequence[NDArray[np.int32]]) -> Sequence[dict[str, Any]]:
        return [self._score(ids) for ids in ready]

    def _score(self, ids: NDArray[np.int32]) -> dict[str, Any]:
        found = log_likelihoods(self.model._shared, ids)
        return {
            "log_likelihood": float(found.sum()), "perplexity": _exp(-float(found.mean())), "tokens": ids.tolist(),
            "log_probabilities": [None, *found.tolist()],
        }  # fmt: skip


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf


def _need_decoder(model: Tasks, task: str) -> None:
    if not model.spec.causal or model.spec.encoder is not None:
        kind = "an encoder" if model.spec.encoder is None else "an encoder-decoder, which answers a source"
        raise RequestError(f"{task} needs a model that writes text, and {model.folder.name} is {kind}; load a decoder")


def score(model: Tasks, texts: Any, errors: str, progress: Any) -> Any:
    """See `Tasks.score`."""
    _need_decoder(model, "score")
    return answer_rows(_Scores(model), texts, batch_size=8, errors=errors, progress=progress)


def perplexity(
    model: Tasks, text: str, context: int | None, stride: int | None, progress: Callable[[int, int], None] | None
) -> dict[str, Any]:
    """See `Tasks.perplexity`."""
    _need_decoder(model, "perplexity")
    size = model.context if context is None else whole("context", context, 2, model.context)
    step = size if stride is None else whole("stride", stride, 1, size)
    ids = np.array(model.tokenizer.encode_pair(text).ids, np.int32)
    if len(ids) < 2:
        raise RequestError(f"the text has {len(ids)} tokens; expected at least two: the first one is not scored")
    total, count, done, windows = 0.0, 0, 0, 0
    for start in range(0, len(ids), step):
        end = min(start + size, len(ids))
        new = end - done  # tokens that no window before had
        found = log_likelihoods(model._shared, ids[start:end])[-new:]
        if new > 1:  # as the definition weighs windows
            total, count = total - float(found.mean()) * (new - 1), count + new - 1
        done, windows = end, windows + 1
        if progress is not None:
            progress(done, len(ids))
        if end == len(ids):
            break
    mean = total / count
    return {"perplexity": _exp(mean), "nll": mean, "tokens": len(ids), "scored": count, "windows": windows,
            "context": size, "stride": step}  # fmt: skip
