"""Names in a text: labels of tokens, joined to words and spans as transformers' aggregation strategies do."""

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
from lepton_edge.tasks.texts import encode, fits, need_head, run, softmax
from lepton_edge.text.pairs import Encoded, windows

if TYPE_CHECKING:
    from lepton_edge.tasks.mixin import Tasks

__all__ = ["STRATEGIES", "entities"]

STRATEGIES = ("none", "simple", "first", "average", "max")
OUTSIDE = "O"

Entity = dict[str, Any]


@dataclass(frozen=True)
class _Token:
    """A token of the text.  inner: whether it goes on with the word of the one before it."""

    word: str
    scores: NDArray[np.float32]
    start: int
    end: int
    index: int
    inner: bool


@dataclass(frozen=True)
class _Job:
    """A text and its tokens, in pieces where it is long."""

    text: str
    pieces: list[Encoded]

    def __len__(self) -> int:
        return sum(map(len, self.pieces))


@dataclass(frozen=True)
class _Entities:
    """`rows.Work`."""

    model: Tasks
    strategy: str
    stride: int | None
    labels: tuple[str, ...]
    unknown: int | None

    def prepare(self, row: Any) -> _Job:
        if not isinstance(row, str):
            raise RequestError(f"the text is {reprlib.repr(row)}; expected a string")
        found = encode(self.model, row)
        if self.stride is None:
            fits(self.model, found, "shorten it, or pass stride=N, which reads it in pieces that share N tokens")
            return _Job(row, [found])
        return _Job(row, windows(found, self.model.context, self.stride, 0))

    def run(self, ready: Sequence[_Job]) -> Sequence[list[Entity]]:
        logits = iter(run(self.model, [piece for job in ready for piece in job.pieces]))
        return [self._entities(job, [next(logits) for _ in job.pieces]) for job in ready]

    def _entities(self, job: _Job, logits: list[NDArray[np.float32]]) -> list[Entity]:
        found: list[Entity] = []
        for piece, scores in zip(job.pieces, logits, strict=True):
            tokens = self._tokens(job.text, piece, softmax(scores))
            whole = self._single(tokens) if self.strategy in ("none", "simple") else self._words(tokens)
            made = whole if self.strategy == "none" else self._groups(whole)
            found += [entity for entity in made if entity.get("entity", entity.get("entity_group")) != OUTSIDE]
        return _without_overlaps(found) if len(job.pieces) > 1 else found

    def _tokens(self, text: str, piece: Encoded, scores: NDArray[np.float32]) -> list[_Token]:
        tokenizer, tokens = self.model.tokenizer, []
        for i, (start, end) in enumerate(piece.offsets):
            if piece.texts[i] is None:
                continue
            word = tokenizer.token(piece.ids[i])
            if tokenizer.marks_parts:
                inner = len(word) != end - start
            else:  # transformers' guess, where the vocabulary does not tell beginnings of words from parts
                inner = start > 0 and " " not in text[start - 1 : start + 1]
            if piece.ids[i] == self.unknown:
                word, inner = text[start:end], False
            tokens.append(_Token(word, scores[i], start, end, i, inner))
        return tokens

    def _single(self, tokens: list[_Token]) -> list[Entity]:
        """One entity for each token."""
        return [
            {**self._label(token.scores), "index": token.index, "word": token.word, "start": token.start,
             "end": token.end}
            for token in tokens
        ]  # fmt: skip

    def _words(self, tokens: list[_Token]) -> list[Entity]:
        """One entity for each word, whose tokens agree on a label by the strategy."""
        words: list[list[_Token]] = []
        for token in tokens:
            if token.inner and words:
                words[-1].append(token)
            else:
                words.append([token])
        return [self._word(word) for word in words]

    def _word(self, tokens: list[_Token]) -> Entity:
        if self.strategy == "first":
            scores = tokens[0].scores
        elif self.strategy == "max":
            scores = max(tokens, key=lambda token: float(token.scores.max())).scores
        else:
            scores = np.mean([token.scores for token in tokens], axis=0)
        text = self.model.tokenizer.join([token.word for token in tokens])
        return {**self._label(scores), "word": text, "start": tokens[0].start, "end": tokens[-1].end}

    def _label(self, scores: NDArray[np.float32]) -> Entity:
        best = int(scores.argmax())
        return {"entity": self.labels[best], "score": float(scores[best])}

    def _groups(self, found: list[Entity]) -> list[Entity]:
        """Neighbours with one label as one entity; a `B-` begins a new one."""
        groups: list[list[Entity]] = []
        for entity in found:
            begins, tag = _tag(entity["entity"])
            if groups and not begins and _tag(groups[-1][-1]["entity"])[1] == tag:
                groups[-1].append(entity)
            else:
                groups.append([entity])
        return [
            {
                "entity_group": group[0]["entity"].split("-", 1)[-1],
                "score": float(np.mean([entity["score"] for entity in group])),
                "word": self.model.tokenizer.join([entity["word"] for entity in group]),
                "start": group[0]["start"],
                "end": group[-1]["end"],
            }
            for group in groups
        ]


def _tag(label: str) -> tuple[bool, str]:
    """Whether a label begins an entity, and its kind."""
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label


def _without_overlaps(found: list[Entity]) -> list[Entity]:
    """Of entities of several pieces that overlap, the longest one, then the likeliest one."""
    kept: list[Entity] = []
    for entity in sorted(found, key=lambda entity: entity["start"]):
        if not kept or not kept[-1]["start"] <= entity["start"] < kept[-1]["end"]:
            kept.append(entity)
            continue
        last = kept[-1]
        lengths = entity["end"] - entity["start"], last["end"] - last["start"]
        if lengths[0] > lengths[1] or (lengths[0] == lengths[1] and entity["score"] > last["score"]):
            kept[-1] = entity
    return kept


def entities(
    model: Tasks, texts: Any, strategy: str, stride: int | None, batch_size: int, errors: str, progress: Any
) -> Any:
    """See `Tasks.entities`."""
    head = need_head(model, "tokens", "entities")
    if strategy not in STRATEGIES:
        raise RequestError(f"strategy is {reprlib.repr(strategy)}; expected one of {', '.join(STRATEGIES)}")
    stride = None if stride is None else whole("stride", stride, 0)
    work = _Entities(model, strategy, stride, head.labels, model.named_token("unk_token"))
    return answer_rows(work, texts, batch_size=batch_size, errors=errors, progress=progress)
