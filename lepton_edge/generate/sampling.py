"""Choosing a token from logits.

Order: repeat penalty, temperature, top-k, top-p, min-p, then a draw. Each of the three filters keeps the likeliest
tokens, so what remains is a prefix of the tokens in falling order; only that prefix is ever sorted.

The step's own summary of its logits names the likeliest tokens. Where they are provably all that matters, a token is
drawn from them, else from all logits: both ways draw the same token from the same random state.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lepton_edge.errors import ModelError
from lepton_edge.generate.params import SamplingParams

if TYPE_CHECKING:
    from lepton_edge.program.summary import Summary

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ids = NDArray[np.intp]

NUCLEUS = 256  # tokens sorted at first when only top_p limits them
LIMIT = float(np.finfo(np.float32).max)
# How far the totals of two executions may be apart, relatively: exponents, at most ln V on average, are rounded three
# times (2**-24) in each, exp is off by 2e-7, and about 210 terms are added one after the other.
ROUNDING = 3e-5


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
        self._random = np.random.Generator(np.random.PCG64(params.seed)) if params.temperature > 0 else None
        self._seen = np.zeros(vocab, bool)
        self._seen[prompt] = True
        self._scratch = np.empty(vocab, np.float32)

    @property
    def temperature(self) -> float:
        """The temperature at which `choose` needs `Summary.heated`."""
        return self._params.temperature or 1.0

    def choose(self, summary: Summary, index: int) -> tuple[int, float]:
        """As `pick`, for the token of number `index` in a step's summary."""
        ids, values, total = summary.ids[index], summary.values[index], float(summary.sums[index])
        peak = float(values[0])
        if not math.isfinite(peak + total):
            return self.pick(summary.logits[index])  # it raises
        if self._random is None and self._params.repeat_penalty == 1.0:
            place = 0
        else:
            kept = self._shortlist(ids, values, float(summary.heated[index]))
            if kept is None:
                return self.pick(summary.logits[index])
            place = int(kept[0][0]) if self._random is None else draw(*kept, self._random.random())
        token = int(ids[place])
        self._seen[token] = True
        return token, float(values[place]) - (peak + math.log(total))

    def _shortlist(self, ids: NDArray[np.int32], values: Floats, total: float) -> tuple[Ids, Doubles] | None:
        """What penalty and filters leave of the likeliest tokens `ids`, as places in it, likeliest first, and weights.

        values: their logits. total: of the weights of all tokens, before the penalty. None where others may matter.
        """
        penalty, scores = self._params.repeat_penalty, values
        places = np.arange(ids.size)
        if penalty != 1.0:
            scores = penalised(values, self._seen[ids].nonzero()[0], penalty)
            places, total = np.lexsort((ids, -scores)), math.nan  # falling; equal ones by id
            scores = scores[places]
            if ids.size < self._vocab:
                # No other token is above the last one, if the penalty lowers (-inf becomes the lowest finite number).
                least = max(float(values[-1]), -LIMIT) if penalty > 1.0 else math.inf
                scores = scores[: np.count_nonzero(scores > least)]
        if self._random is None or not scores.size:
            return (places, np.ones(1)) if scores.size else None
        weights = filtered(scores, self._params, self._vocab, total)
        return None if weights is None else (places[: weights.size], weights)

    def pick(self, logits: Floats) -> tuple[int, float]:
        """The next token and its log-probability under the model (before penalty, temperature and filters).

        Args:
            logits: float32 [V]; left as they are.
        Raises:
            ModelError: a logit is NaN or infinite.
        """
        peak = float(logits.max())
        if not math.isfinite(peak):
            raise ModelError(
                f"the model's logits hold {peak}; expected finite numbers; its weights are damaged, or they are too "
                "large for their format: check the files, or load another format"
            )
        scores = logits
        if self._params.repeat_penalty != 1.0:
            scores = penalised(logits, np.flatnonzero(self._seen), self._params.repeat_penalty)
        if self._random is None:
            token = int(scores.argmax())
        else:
            token = draw(*candidates(scores, self._params, self._scratch), self._random.random())
        self._seen[token] = True
        return token, float(logits[token]) - log_sum_exp(logits, peak, self._scratch)


def log_sum_exp(logits: Floats, peak: float, scratch: Floats) -> float:
    """log Σ exp(logits), float32 terms relative to `peak`, the largest; scratch: float32 of the same shape."""
    return peak + math.log(float(_weights(logits, peak, 1.0, scratch).sum()))


def penalised(logits: Floats, seen: Ids, penalty: float) -> Floats:
    """A copy in which the seen tokens are less likely (penalty > 1): positive logits divided, negative multiplied."""
    scores = logits.copy()
    values = logits[seen].astype(np.float64)
    with np.errstate(over="ignore"):
        changed = np.where(values > 0, values / penalty, values * penalty)
    scores[seen] = np.minimum(np.maximum(changed, -LIMIT), LIMIT)
    return scores


def candidates(scores: Floats, params: SamplingParams, scratch: Floats) -> tuple[Ids, Doubles]:
    """The tokens that top-k, top-p and min-p leave, and their weights (probabilities up to a factor).

    Without any of the filters these are all tokens, in the order of their ids; else the likeliest is first.
    """
    peak = float(scores.max())
    temperature = params.temperature
    total = None
    if 0 < params.top_k < scores.size:
        ids = likeliest(scores, params.top_k)
    elif params.top_p < 1.0:
        total = float(_weights(scores, peak, temperature, scratch).sum(dtype=np.float64))
        ids = _around_nucleus(scores, peak, params, total)
    elif params.min_p > 0.0:
        # Slightly more than enough: the exact comparison follows, on the sorted weights.
        depth = temperature * math.log(params.min_p)
        floor = max(peak + depth - 1e-5 * (1 + abs(peak) - depth), float(np.finfo(np.float32).min))
        ids = np.flatnonzero(scores >= np.float32(floor))
        ids = ids[falling(scores[ids])]
    else:
        return np.arange(scores.size), _weights(scores, peak, temperature, scratch).astype(np.float64)
    weights = _doubles(scores[ids], peak, temperature)
    kept = ids.size
    if params.top_p < 1.0:
        kept = nucleus(weights, params.top_p, float(weights.sum()) if total is None else total)
    if params.min_p > 0.0:
        kept = min(kept, int(np.count_nonzero(weights >= params.min_p * weights[0])))
    return ids[:kept], weights[:kept]


def filtered(scores: Floats, params: SamplingParams, vocab: int, total: float) -> Doubles | None:
    """The weights of those that top-k, top-p and min-p leave of the likeliest tokens; None where it needs others too.

    scores: [N], falling; no other token of the `vocab` has more. total: of the weights of all tokens, NaN if unknown.
    """
    limited = 0 < params.top_k < vocab
    if limited:
        scores = scores[: params.top_k]
    complete = scores.size == (params.top_k if limited else vocab)
    weights = _doubles(scores, float(scores[0]), params.temperature)
    kept = weights.size
    if params.top_p < 1.0:
        if limited:
            total = float(weights.sum()) if complete else math.nan
        edges, spread = weights.cumsum(), 0.0 if limited else ROUNDING
        low, high = (int(edges.searchsorted(params.top_p * total * (1 + way * spread))) for way in (-1, 1))
        if low != high or math.isnan(total):
            return None
        if low < kept:
            kept, complete = low + 1, True
    if params.min_p > 0.0:
        likely = int(np.count_nonzero(weights >= params.min_p * weights[0]))
        complete = complete or likely < weights.size
        kept = min(kept, likely)
    return weights[:kept] if complete else None


def likeliest(scores: Floats, count: int) -> Ids:
    """The ids of the `count` largest scores, largest first; equal ones in the order of their ids."""
    threshold = np.partition(scores, scores.size - count)[scores.size - count]
    ids = np.flatnonzero(scores >= threshold)
    return ids[falling(scores[ids])][:count]


def falling(scores: Floats) -> Ids:
    """The positions of scores float32 [N], N < 2**32, from the largest to the smallest; equal ones in order.

    As a stable argsort, ten times as fast: the sort is of integers that hold the score's order and the position.
    """
    bits = (0.0 - scores).view(np.int32)
    order = bits ^ (bits >> 31 & 0x7FFFFFFF)  # rises with the value, as the bits of negative floats do not
    keys = order.astype(np.int64) << 32 | np.arange(scores.size)
    keys.sort()
    return keys & 0xFFFFFFFF


def nucleus(weights: Doubles, share: float, total: float) -> int:
    """How many of the falling `weights` it takes to reach `share` of `total`; at least one, at most all."""
    reached = int(weights.cumsum().searchsorted(share * total))
    return min(reached + 1, weights.size)


def draw(ids: Ids, weights: Doubles, point: float) -> int:
    """The id in which `point`, from 0 to below 1, falls when the ids share that interval by their weights."""
    edges = weights.cumsum()
    index = int(edges.searchsorted(point * edges[-1], side="right"))
    return int(ids[min(index, ids.size - 1)])


def _around_nucleus(scores: Floats, peak: float, params: SamplingParams, total: float) -> Ids:
    """Likeliest tokens, enough to reach top_p; few when the model is sure, all of them when it is not."""
    count = NUCLEUS
    while count < scores.size:
        ids = likeliest(scores, count)
        if _doubles(scores[ids], peak, params.temperature).sum() >= params.top_p * total:
            return ids
        count *= 16
    return falling(scores)


def _weights(scores: Floats, peak: float, temperature: float, scratch: Floats) -> Floats:
    """exp((scores - peak) / temperature) in float32, written to `scratch`."""
    np.subtract(scores, np.float32(peak), out=scratch)
    if temperature != 1.0:
        with np.errstate(over="ignore"):  # to -inf, for a temperature near 0
            np.multiply(scratch, np.float32(1.0 / min(max(temperature, 1e-30), 1e30)), out=scratch)
    return np.exp(scratch, out=scratch)


def _doubles(scores: Floats, peak: float, temperature: float) -> Doubles:
    """exp((scores - peak) / temperature) in float64, for few scores."""
    with np.errstate(over="ignore"):
        weights: Doubles = np.exp((scores.astype(np.float64) - peak) / temperature)
    return weights
