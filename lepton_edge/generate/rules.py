"""What a text may not go on with, as transformers' logits processors say it, in their order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lepton_edge.errors import RequestError

__all__ = ["Rules"]

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Rules:
    """Rules for the tokens of a text.

    ends: ids that end it.  most, least: new tokens, at most and at least.  forced_first, forced_last: ids that the
    first and the last new token must be, or None.  no_repeat: n-grams of that size come once (arXiv:1705.04304), 0:
    any may.  bad: sequences of ids that must not come.  suppressed: ids that never come.  repeat_penalty: see
    `SamplingParams`.
    """

    ends: frozenset[int]
    most: int
    least: int = 0
    forced_first: int | None = None
    forced_last: int | None = None
    no_repeat: int = 0
    bad: tuple[tuple[int, ...], ...] = ()
    suppressed: tuple[int, ...] = ()
    repeat_penalty: float = 1.0

    def apply(self, ids: list[int], scores: Floats) -> None:
        """Change scores float32 [V], logits or log-probabilities, of what follows ids, the start included, in place.

        RequestError where no token is left.
        """
        made = len(ids) - 1
        if self.repeat_penalty != 1.0:
            seen = np.unique(ids)
            held = scores[seen]
            scores[seen] = np.where(held < 0, held * self.repeat_penalty, held / self.repeat_penalty)
        if self.no_repeat and len(ids) + 1 >= self.no_repeat:
            scores[self._repeats(ids)] = -np.inf
        for words in self.bad:
            if len(words) == 1 and words[0] in self.ends:
                continue
            if len(words) <= len(ids) + 1 and list(words[:-1]) == ids[len(ids) + 1 - len(words) :]:
                scores[words[-1]] = -np.inf
        if made < self.least:
            scores[list(self.ends)] = -np.inf
        if self.forced_first is not None and made == 0:
            self._force(scores, self.forced_first)
        if self.forced_last is not None and made == self.most - 1:
            self._force(scores, self.forced_last)
        if self.suppressed:
            scores[list(self.suppressed)] = -np.inf
        if scores.max() == -np.inf:
            raise RequestError(
                "no token may follow: suppress_tokens, bad_words_ids, the forced tokens and no_repeat_ngram_size rule "
                "out every one; loosen them"
            )

    def _repeats(self, ids: list[int]) -> list[int]:
        """What would complete an n-gram that is there already."""
        n = self.no_repeat
        last = ids[len(ids) + 1 - n :]
        return [ids[i + n - 1] for i in range(len(ids) - n + 1) if ids[i : i + n - 1] == last]

    @staticmethod
    def _force(scores: Floats, token: int) -> None:
        scores[:] = -np.inf
        scores[token] = 0.0
