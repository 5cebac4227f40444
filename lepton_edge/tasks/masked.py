"""The likeliest words in masked places of a text."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_edge.errors import RequestError
from lepton_edge.generate.params import whole
from lepton_edge.tasks.rows import answer_rows
from lepton_edge.tasks.texts import encode, fits, need_head, run, softmax
from lepton_edge.text.pairs import Encoded

if TYPE_CHECKING:
    from lepton_edge.tasks.mixin import Tasks

__all__ = ["fill"]

Found = list[dict[str, Any]]


@dataclass(frozen=True)
class _Masks:
    """`rows.Work`.  targets: the only tokens that count, by their ids; None: all."""

    model: Tasks
    mask: int
    pad: int | None
    top_k: int
    targets: list[int] | None

    def prepare(self, row: Any) -> Encoded:
        if not isinstance(row, str):
            raise RequestError(f"the text is {reprlib.repr(row)}; expected a string")
        found = fits(self.model, encode(self.model, row), "shorten it")
        if self.mask not in found.ids:
            raise RequestError(f"the text has no {self.model.tokenizer.token(self.mask)}; expected one in each place")
        return found

    def run(self, ready: Sequence[Encoded]) -> Sequence[Found | list[Found]]:
        return [self._fill(item, logits) for item, logits in zip(ready, run(self.model, ready), strict=True)]

    def _fill(self, item: Encoded, logits: Any) -> Found | list[Found]:
        places = [i for i, token in enumerate(item.ids) if token == self.mask]
        found = [self._place(item.ids, i, softmax(logits[i]), len(places) > 1) for i in places]
        return found[0] if len(found) == 1 else found

    def _place(self, ids: list[int], place: int, shares: Any, several: bool) -> Found:
        tokenizer = self.model.tokenizer
        wanted = np.arange(min(len(shares), tokenizer.vocab_size)) if self.targets is None else np.array(self.targets)
        best = wanted[np.argsort(-shares[wanted], kind="stable")[: self.top_k]]
        made = []
        for token in best.tolist():
            text = [token if i == place else other for i, other in enumerate(ids)]
            made.append({
                "score": float(shares[token]), "token": token, "token_str": tokenizer.decode([token], special=True),
                "sequence": tokenizer.decode([i for i in text if i != self.pad], special=several),
            })  # fmt: skip
        return made


def fill(model: Tasks, texts: Any, top_k: int, targets: Any, batch_size: int, errors: str, progress: Any) -> Any:
    """See `Tasks.fill`."""
    need_head(model, "mask", "fill")
    mask = model.named_token("mask_token")
    if mask is None:
        raise RequestError(
            f"{model.folder.name} names no mask_token that its tokenizer has; expected one in tokenizer_config.json"
        )
    ids = None if targets is None else _targets(model, targets)
    work = _Masks(model, mask, model.named_token("pad_token"), whole("top_k", top_k, 1), ids)
    return answer_rows(work, texts, batch_size=batch_size, errors=errors, progress=progress)


def _targets(model: Tasks, targets: Any) -> list[int]:
    """Ids of words, each once."""
    words = [targets] if isinstance(targets, str) else targets
    if not isinstance(words, list | tuple) or not words or not all(isinstance(word, str) for word in words):
        raise RequestError(f"targets is {reprlib.repr(targets)}; expected a list of words")
    found = {word: model.tokenizer.id_of(word) for word in words}
    missing = next((word for word, token in found.items() if token is None or token >= model.spec.vocab), None)
    if missing is not None:
        raise RequestError(f"targets has {missing!r}, which is no token; expected words that the vocabulary has")
    return sorted({token for token in found.values() if token is not None})
