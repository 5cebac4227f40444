"""Texts from an encoder-decoder: all sources' beams advance together, one step for all."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from lepton_edge.errors import ModelError, RequestError
from lepton_edge.generate.beams import Beams, log_softmax
from lepton_edge.generate.params import SamplingParams
from lepton_edge.generate.rules import Rules

if TYPE_CHECKING:
    from lepton_edge.generate.shared import Sequence as Turn
    from lepton_edge.generate.shared import SharedEngine
    from lepton_edge.generate.stream import Followed
    from lepton_edge.runtime import Engine
    from lepton_edge.runtime.pair import PairEngine

__all__ = ["beam_search", "follow", "sample"]

Ids = NDArray[np.int32]
SLOTS = 96  # sequences of a group of sources at once: less than half of the engine's, so that others have some


def beam_search(
    shared: SharedEngine, sources: Sequence[Ids], prompt: list[int], rules: Rules, beams: int,
    length_penalty: float = 1.0, early_stopping: bool | str = False,
) -> list[list[int]]:  # fmt: skip
    """The best text after each source, as ids without the prompt; one beam is a greedy search.

    sources: int32 [T] each, not empty.  prompt: what the decoder begins with.  Raises RequestError,
    ContextLengthError, Cancelled, or ModelError where a logit is no number.
    """
    found: list[list[int]] = []
    group = max(1, SLOTS // (beams + 1))
    for start in range(0, len(sources), group):
        here, options = sources[start : start + group], (prompt, length_penalty, early_stopping)
        searches = [_Greedy(rules, prompt) if beams == 1 else Beams(rules, beams, *options) for _ in here]
        _run(shared, here, searches)
        found += [search.result for search in searches]
    return found


def sample(
    shared: SharedEngine, sources: Sequence[Ids], prompt: list[int], rules: Rules, params: SamplingParams,
    random: np.random.Generator,
) -> list[list[int]]:  # fmt: skip
    """A text drawn after each source, as `beam_search` gives them; params: temperature and filters."""
    found: list[list[int]] = []
    for start in range(0, len(sources), SLOTS // 2):
        here = sources[start : start + SLOTS // 2]
        searches = [_Draw(rules, prompt, params, random) for _ in here]
        _run(shared, here, searches)
        found += [search.result for search in searches]
    return found


def follow(
    turn: Turn, source: Ids, prompt: list[int], rules: Rules, params: SamplingParams, random: np.random.Generator
) -> Followed:
    """The tokens after one source, as they come: the likeliest ones, or with a temperature what `sample` draws.

    Each with its log-probability before the rules and the temperature.  turn: a new one, which is closed at the end.
    """
    search = _Draw(rules, prompt, params, random) if params.temperature > 0 else _Greedy(rules, prompt)
    search.weigh = True
    for _ in _steps(turn, [source], [search]):
        yield search.running[0][-1], search.logprob


class _Greedy:
    """One text, of the likeliest tokens.

    weigh: whether `logprob` is to be the model's of the last token.
    """

    weigh, logprob = False, 0.0

    def __init__(self, rules: Rules, prompt: list[int]) -> None:
        self.rules, self.prompt, self.running, self.open = rules, prompt, [list(prompt)], True

    def advance(self, logits: NDArray[np.float32]) -> list[int]:
        """Take the step whose logits are [1, V]; -> [0]."""
        scores = logits[0]
        logs = log_softmax(logits)[0] if self.weigh else None  # before the rules change the scores
        self.rules.apply(self.running[0], scores)
        token = self.choose(scores)
        if logs is not None:
            self.logprob = float(logs[token])
        self.running[0].append(token)
        self.open = token not in self.rules.ends and len(self.running[0]) - len(self.prompt) < self.rules.most
        return [0]

    def choose(self, scores: NDArray[np.float32]) -> int:
        """The next token."""
        return int(scores.argmax())

    @property
    def result(self) -> list[int]:
        """The new ids."""
        return self.running[0][len(self.prompt) :]


class _Draw(_Greedy):
    """One text, of tokens drawn by their probabilities (temperature, top-k, top-p, min-p, in this order)."""

    def __init__(self, rules: Rules, prompt: list[int], params: SamplingParams, random: np.random.Generator) -> None:
        super().__init__(rules, prompt)
        self._params, self._random = params, random

    def choose(self, scores: NDArray[np.float32]) -> int:
        """The next token."""
        params = self._params
        order = np.argsort(-scores, kind="stable")[: params.top_k or None]
        logs = log_softmax(scores[order][None].astype(np.float32) / np.float32(params.temperature))[0]
        shares = np.exp(logs.astype(np.float64))
        before = np.cumsum(shares) - shares
        shares[(before >= params.top_p) | (shares < params.min_p * shares[0])] = 0.0
        return int(order[self._random.choice(len(order), p=shares / shares.sum())])


def _run(shared: SharedEngine, sources: Sequence[Ids], searches: Sequence[_Greedy | Beams]) -> None:
    """Advance the searches, one for each source, until none is open."""
    for _ in _steps(shared.begin(adapter=None), sources, searches):
        pass


def _steps(turn: Turn, sources: Sequence[Ids], searches: Sequence[_Greedy | Beams]) -> Generator[None, None, None]:
    """As `_run`, giving way after each step."""
    shared, held = turn.shared, list[int]()
    with closing(turn):
        try:
            lanes = _Lanes(sources, searches, held)
            shared.step(turn, lanes.begin)
            while lanes.open:
                shared.step(turn, lanes.advance)
                yield
        finally:
            for slot in held:
                shared.free_slot(slot)


class _Lanes:
    """The slots of all beams of all open searches.  held: every slot that is taken, memories included."""

    def __init__(self, sources: Sequence[Ids], searches: Sequence[_Greedy | Beams], held: list[int]) -> None:
        self._sources, self._searches, self._held = sources, searches, held
        self._slots: list[list[int]] = []

    def begin(self, engine: Engine) -> None:
        """Encode the sources, and open a sequence for each: its beams are alike before the first token."""
        engine = as_pair(engine)
        self._held += (memories := _remember(engine, self._sources))
        for memory in memories:
            slot = engine.open_with(memory)
            self._held.append(slot)
            self._slots.append([slot])

    @property
    def open(self) -> bool:
        """Whether any search is."""
        return any(search.open for search in self._searches)

    def advance(self, engine: Engine) -> None:
        """One step of all open searches."""
        engine = as_pair(engine)
        tokens: list[int] = []
        slots: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        live = [i for i, search in enumerate(self._searches) if search.open]
        for i in live:
            for slot, ids in zip(self._slots[i], self._searches[i].running, strict=False):
                start = engine.length(slot)
                tokens += ids[start:]
                slots += [slot] * (len(ids) - start)
                positions += range(start, len(ids))
                wanted.append(len(tokens) - 1)
        logits = engine.forward(tokens, slots, positions, wanted)
        if not np.isfinite(logits).all():
            raise ModelError(
                "the model's logits are not finite; its weights are damaged, or they are too large for their format: "
                "check the files, or load another format"
            )
        first = 0
        for i in live:
            search, here = self._searches[i], logits[first : first + len(self._slots[i])]
            first += len(self._slots[i])
            if len(here) < len(search.running):  # the first step: all beams are the one that was run
                here = np.repeat(here, len(search.running), axis=0)
            parents = search.advance(here)
            if search.open:
                self._slots[i] = self._reorder(engine, self._slots[i], parents)

    def _reorder(self, engine: PairEngine, slots: list[int], parents: list[int]) -> list[int]:
        """Slots for the new beams: the first child of a beam takes its slot, the others copies of it."""
        parents = parents if len(slots) > 1 else [0] * len(parents)
        for slot in [slot for beam, slot in enumerate(slots) if beam not in parents]:
            engine.close_slot(slot)
            self._held.remove(slot)
        found: list[int] = []
        for parent in parents:
            slot = slots[parent]
            if slot in found:
                slot = engine.fork(slot)
                self._held.append(slot)
            found.append(slot)
        return found


def as_pair(engine: Engine) -> PairEngine:
    """The engine as what it is: RequestError for a model without an encoder."""
    if engine.spec.encoder is None:
        raise RequestError(f"{engine.spec.family} models have no encoder and decoder; use a T5, Bart or Marian model")
    return cast("PairEngine", engine)


def _remember(engine: PairEngine, sources: Sequence[Ids]) -> list[int]:
    """The memories of sources, which are encoded in steps of about max_batch tokens."""
    found: list[int] = []
    start = total = 0
    try:
        for i, ids in enumerate(sources):
            if i > start and total + len(ids) > engine.max_batch:
                found += engine.remember(sources[start:i])
                start, total = i, 0
            total += len(ids)
        return found + engine.remember(sources[start:])
    except BaseException:
        for slot in found:
            engine.close_slot(slot)
        raise
