"""What a decoder writes that begins with the states in which an encoder has left a text (arXiv:1409.3215), greedily."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lepton_edge.errors import ModelError, RequestError
from lepton_edge.generate.whole import packs

if TYPE_CHECKING:
    from lepton_edge.generate.shared import Sequence as Turn
    from lepton_edge.generate.shared import SharedEngine
    from lepton_edge.models.spec import Target
    from lepton_edge.runtime import Engine

__all__ = ["transduce"]

Ids = NDArray[np.int32]


def transduce(shared: SharedEngine, sequences: Sequence[Ids], most: int | None = None) -> list[list[int]]:
    """The decoder's tokens for each sequence int32 [T], T > 0: the likeliest one each time, up to its end token, which
    is left out, or `most`, which by default the model says.

    Steps of other requests may come between.

    Raises:
        RequestError: the model is no such encoder-decoder.
        ContextLengthError: a sequence is longer than the encoder's context.
        ModelError: a logit is NaN or infinite.
        Cancelled: `cancel` was called.
    """
    target = shared.engine.spec.target
    if target is None:
        raise RequestError(
            f"{shared.engine.spec.family} models of this kind write nothing; expected a recurrent encoder-decoder "
            "(RnnForSeq2Seq)"
        )
    found: list[list[int]] = []
    with closing(shared.begin(adapter=None)) as turn:
        for start, stop in packs([len(ids) for ids in sequences], shared.engine.max_batch):
            slots: list[int] = []
            try:
                shared.step(turn, partial(_begin, sequences[start:stop], slots))
                found += _greedy(shared, turn, slots, target, target.most if most is None else most)
            finally:
                for slot in slots:
                    _decoder(shared.engine).close_slot(slot)
    return found


def _decoder(engine: Engine) -> Engine:
    assert engine.decoder is not None, "there is a target"
    return engine.decoder


def _begin(pack: Sequence[Ids], slots: list[int], engine: Engine) -> None:
    """Read the sequences, and begin one of the decoder's after each; `slots` gets theirs."""
    for state in engine.last_states(pack):
        slots.append(_decoder(engine).open(state))


def _greedy(shared: SharedEngine, turn: Turn, slots: list[int], target: Target, most: int) -> list[list[int]]:
    """The likeliest token each time, for all slots at once, until they have ended."""
    rows: list[list[int]] = [[] for _ in slots]
    last = [target.start] * len(slots)
    alive = list(range(len(slots)))
    for position in range(1, most + 1):  # the state is position 0
        if not alive:
            break
        step = partial(_logits, [last[i] for i in alive], [slots[i] for i in alive], position)
        logits = shared.step(turn, step)
        if not np.isfinite(logits).all():
            raise ModelError("a logit is NaN or infinite: the weights are damaged, or overflow in this format")
        for i, token in zip(alive, logits.argmax(axis=1).tolist(), strict=True):
            last[i] = token
            if token != target.end:
                rows[i].append(token)
        alive = [i for i in alive if last[i] != target.end]
    return rows


def _logits(tokens: list[int], slots: list[int], position: int, engine: Engine) -> NDArray[np.float32]:
    """float32 [M, V] after one more token of each slot."""
    count = len(tokens)
    return _decoder(engine).forward(tokens, slots, [position] * count, range(count))
