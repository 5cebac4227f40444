"""Choosing a token from the summary of a step's logits.

Order: repeat penalty, temperature, top-k, top-p, min-p, then a draw. Each of the three filters keeps the likeliest
tokens, so what remains is a prefix of the tokens in falling order, equal ones by id. The first of three ways that is
enough chooses from it:

1. Of the likeliest tokens, which the summary names, a random number picks one.
2. Where neither top-k nor top-p asks how many tokens are likelier, a random number picks a chunk of the logits by its
   share and a second one a token in it by its weight; the token is taken with the probability that min-p and the
   penalty leave it, else another one is drawn (rejection sampling, von Neumann 1951). Only these chunks are read.
3. The logits above a limit are sorted, with a lower limit until they are enough, and a random number picks one.

The same summaries and the same seed give the same tokens.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from operator import neg
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lepton_edge.errors import ModelError
from lepton_edge.generate.params import SamplingParams
from lepton_edge.kernels.layout import TOP
from lepton_edge.program.summary import TOP_CHUNK, heat

if TYPE_CHECKING:
    from lepton_edge.program.summary import Summary

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ids = NDArray[np.integer]

TRIES = 16  # draws of the second way, some 40 us each, before the third one costs less
DEPTHS = (1 / 4, 7 / 8)  # blocks with a logit above a limit: then so are some 1% and 6% of normally distributed logits
LEAST_LEFT = 0.01  # of the sum of the weights, after the penalty: a smaller difference from it would be inexact
LIMIT = float(np.finfo(np.float32).max)
LOWEST = -200.0  # the exponential of less is 0 in float32


class _Points:
    """Random numbers, many made at once: a call of NumPy's takes 20 us while a step's weights fill the caches."""

    def __init__(self, seed: int | None) -> None:
        self._generator, self._left = np.random.Generator(np.random.PCG64(seed)), list[float]()

    def random(self) -> float:
        """The next one, from 0 to below 1."""
        if not self._left:
            self._left = self._generator.random(256)[::-1].tolist()
        return self._left.pop()


class Sampler:
    """Chooses the tokens of one request; it remembers the tokens seen (for the penalty) and the random state.

    Args:
        params: how to choose.
        prompt: int32 [T], the prompt's ids, below the vocabulary's size.
        vocab: V, the vocabulary's size.
    """

    def __init__(self, params: SamplingParams, prompt: NDArray[np.int32], vocab: int) -> None:
        self._params = params
        self._vocab = vocab
        self._limited = 0 < params.top_k < vocab
        self._random = _Points(params.seed) if params.temperature > 0 else None
        self._heat = heat(self.temperature)
        self._seen = np.zeros(vocab, bool)
        self._seen[prompt] = True

    @property
    def temperature(self) -> float:
        """The temperature at which `choose` needs the summary's heated sums."""
        return self._params.temperature or 1.0

    def choose(self, summary: Summary, index: int) -> tuple[int, float]:
        """The next token, and its log-probability under the model (before penalty, temperature and filters).

        Args:
            summary: of a step's logits.
            index: which of the step's tokens to follow.
        Raises:
            ModelError: a logit is NaN or infinite.
        """
        peak, total = float(summary.values[index, 0]), float(summary.sums[index])
        if not math.isfinite(peak + total):
            raise ModelError(
                f"the model's logits hold {summary.logits[index].max()}; expected finite numbers; its weights are "
                "damaged, or they are too large for their format: check the files, or load another format"
            )
        if self._random is None and self._params.repeat_penalty == 1.0:
            token = int(summary.ids[index, 0])
        else:
            token = self._choose(summary, index)
        self._seen[token] = True
        return token, float(summary.logits[index, token]) - (peak + math.log(total))

    def _choose(self, summary: Summary, index: int) -> int:
        logits, values, total = summary.logits[index], summary.values[index], float(summary.heated[index])
        ids, scores = self._likeliest(summary.ids[index], values, logits)
        if self._params.repeat_penalty != 1.0:
            total = self._total(logits, total, float(values[0]), scores)
        place = self._place(scores, total)
        if place is not None:
            return int(ids[place])
        token = self._draw(logits, summary.shares[index], scores)
        return self._search(logits, summary.peaks[index], total) if token is None else token

    def _likeliest(self, ids: Ids, values: Floats, logits: Floats) -> tuple[Ids, Floats]:
        """Of the summary's likeliest tokens those that are so after the penalty too, and their scores, falling."""
        penalty = self._params.repeat_penalty
        if penalty == 1.0:
            return ids, values
        some = np.sort(ids) if penalty > 1.0 else np.union1d(ids, self._seen.nonzero()[0])
        scores = self._penalised(logits[some], self._seen[some])
        order = (-scores).argsort(kind="stable")
        if ids.size < self._vocab:
            # No other token is above the last one, nor above the lowest finite number, which -inf becomes.
            order = order[: np.count_nonzero(scores > max(float(values[-1]), -LIMIT))]
        return some[order], scores[order]

    def _total(self, logits: Floats, total: float, peak: float, scores: Floats) -> float:
        """The sum of all weights after the penalty, relative to the first of `scores`; NaN if inexact, or not needed.

        total: before it, relative to the score `peak`. scores: the likeliest after it, falling.
        """
        if self._params.top_p == 1.0 or self._limited or not scores.size:
            return math.nan
        seen, top = logits[self._seen.nonzero()], float(scores[0])
        best = max(peak, top)
        before = total * math.exp((peak - best) * self._heat)
        change = weigh(penalised(seen, self._params.repeat_penalty), best, self._heat) - weigh(seen, best, self._heat)
        left = before + float(change.sum(dtype=np.float64))
        return left / math.exp((top - best) * self._heat) if left > LEAST_LEFT * before else math.nan

    def _penalised(self, logits: Floats, seen: NDArray[np.bool_]) -> Floats:
        """Scores: a copy of some logits, those of the tokens `seen` after the penalty."""
        scores, (places,) = logits.copy(), seen.nonzero()
        scores[places] = penalised(logits[places], self._params.repeat_penalty)
        return scores

    def _place(self, scores: Floats, total: float) -> int | None:
        """The place of the next token among the likeliest; None where it may be another. Arguments: see `filtered`."""
        if not scores.size:
            return None
        if self._random is None:
            return 0
        # A few numbers take plain Python a third of the time of NumPy's calls, more so while weights fill the caches.
        some = scores.tolist() if scores.size <= TOP else scores
        edges = filtered(some, self._params, self._vocab, total, self._heat)
        return None if edges is None else draw(edges, self._random.random())

    def _draw(self, logits: Floats, shares: Floats, scores: Floats) -> int | None:
        """A token, the second way; None where this does not apply or takes too long. scores: the likeliest, falling."""
        params = self._params
        ranked = self._limited or params.top_p < 1.0
        if self._random is None or ranked or params.repeat_penalty < 1.0 or not scores.size:
            return None
        edges, floor = shares.cumsum(dtype=np.float64), float(scores[0]) + depth(params.min_p, self._heat)
        for _ in range(TRIES):
            start = TOP_CHUNK * draw(edges, self._random.random())
            chunk = logits[start : start + TOP_CHUNK]
            weights = weigh(chunk, float(chunk.max()), self._heat)
            place = draw(weights.cumsum(dtype=np.float64), self._random.random())
            score = raw = float(chunk[place])
            if params.repeat_penalty > 1.0 and self._seen[start + place]:
                score = float(penalised(chunk[place : place + 1], params.repeat_penalty)[0])
                if self._random.random() >= math.exp((score - raw) * self._heat):
                    continue
            if score >= floor:
                return start + place
        return None

    def _search(self, logits: Floats, peaks: Floats, total: float) -> int:
        """A token, the third way."""
        scores = logits if self._params.repeat_penalty == 1.0 else self._penalised(logits, self._seen)
        if self._random is None:
            return int(scores.argmax())
        for least in limits(peaks, self._params.top_k):
            above = np.sort(scores[scores >= least])[::-1]
            place = self._place(above, total)
            if place is not None:
                break
        assert place is not None, "all of them are enough"
        equal = np.flatnonzero(scores == above[place])
        return int(equal[place - np.count_nonzero(above > above[place])])


def penalised(logits: Floats, penalty: float) -> Floats:
    """Less likely (penalty > 1): positive logits divided, negative ones multiplied; within float32."""
    wide = logits.astype(np.float64)
    with np.errstate(over="ignore"):
        changed = wide * np.where(wide > 0, 1 / penalty, penalty)
    return np.minimum(np.maximum(changed, -LIMIT), LIMIT).astype(np.float32)


def filtered(
    scores: Floats | list[float], params: SamplingParams, vocab: int, total: float, heat: float
) -> Doubles | list[float] | None:
    """What top-k, top-p and min-p leave of the likeliest tokens, as the cumulative sum of their weights.

    scores: [N], falling, N > 0; no other token of the `vocab` has more. total: of the weights of all tokens, relative
    to the first; NaN if unknown. None where other tokens, or the total, are needed.
    """
    limited = 0 < params.top_k < vocab
    complete = len(scores) >= (params.top_k if limited else vocab)
    if not complete and params.top_p == 1.0 and params.min_p == 0.0:
        return None
    scores = scores[: params.top_k] if limited else scores
    peak, kept = float(scores[0]), len(scores)
    edges = running_sums(scores, peak, heat)
    if params.top_p < 1.0:
        if complete:
            total = float(edges[-1])
        elif limited or math.isnan(total):
            return None
        reached = bisect_left(edges, params.top_p * total)
        if reached < kept:
            kept, complete = reached + 1, True
    if params.min_p > 0.0:
        likely = bisect_right(scores, -(peak + depth(params.min_p, heat)), key=neg)  # they fall
        complete = complete or likely < len(scores)
        kept = min(kept, likely)
    return edges[:kept] if complete else None


def depth(min_p: float, heat: float) -> float:
    """How far below the likeliest score min-p takes tokens, as a number up to 0."""
    return math.log(min_p) / heat if min_p > 0.0 else -math.inf


def limits(peaks: Floats, top_k: int) -> list[float]:
    """Lower and lower logits down to -inf; `top_k` logits or more reach the first. peaks: the largest of each block."""
    falling = np.sort(peaks)[::-1]
    ranks = [top_k] if top_k > 0 else [int(depth * peaks.size) for depth in DEPTHS]
    return [float(falling[rank]) for rank in ranks if rank < peaks.size] + [-math.inf]


def draw(edges: Sequence[float] | Doubles, point: float) -> int:
    """The place in which `point`, from 0 to below 1, falls; edges: where each one ends, in other units."""
    return min(bisect_right(edges, point * edges[-1]), len(edges) - 1)


def running_sums(scores: Floats | list[float], peak: float, heat: float) -> Doubles | list[float]:
    """The cumulative sums of the weights."""
    if isinstance(scores, list):
        return list(accumulate(math.exp(max((score - peak) * heat, LOWEST)) for score in scores))
    sums: Doubles = weigh(scores, peak, heat).cumsum(dtype=np.float64)
    return sums


def weigh(scores: NDArray[np.floating], peak: float, heat: float) -> Floats:
    """exp((scores - peak) * heat); in float32, whose exp takes a quarter of the time."""
    away = np.maximum((scores.astype(np.float64) - peak) * heat, LOWEST)
    weights: Floats = np.exp(away.astype(np.float32))
    return weights
