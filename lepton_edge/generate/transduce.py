"""What a decoder writes that begins with the states in which an encoder has left a text (arXiv:1409.3215), greedily."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lepton_edge.errors import ModelError, RequestError
from lepton_edge.generate.beams import log_softmax
from lepton_edge.generate.whole import packs

if TYPE_CHECKING:
    from lepton_edge.generate.shared import Sequence as Turn
    from lepton_edge.generate.shared import SharedEngine
    from lepton_edge.generate.stream import Followed
    from lepton_edge.models.spec import Target
    from lepton_edge.runtime import Engine

__all__ = ["follow", "need_target", "transduce"]

Ids = NDArray[np.int32]
Step = tuple[list[int], list[int], NDArray[np.float32]]


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
    target = need_target(shared.engine)
    found: list[list[int]] = [[] for _ in sequences]
    with closing(shared.begin(adapter=None)) as turn:
        for start, stop in packs([len(ids) for ids in sequences], shared.engine.max_batch):
            for alive, tokens, _ in _steps(turn, sequences[start:stop], target.most if most is None else most):
                for i, token in zip(alive, tokens, strict=True):
                    if token != target.end:
                        found[start + i].append(token)
    return found


def follow(turn: Turn, ids: Ids, most: int) -> Followed:
    """The decoder's tokens after one sequence, as they come, each with its log-probability; errors as of `transduce`.

    turn: a new one, which is closed at the end.
    """
    with closing(turn):
        for _, tokens, logits in _steps(turn, [ids], most):
            yield tokens[0], float(log_softmax(logits)[0, tokens[0]])


def need_target(engine: Engine) -> Target:
    """What the engine's model writes.  RequestError for a model that is no recurrent encoder-decoder."""
    if engine.spec.target is None:
        raise RequestError(
            f"{engine.spec.family} models of this kind write nothing; expected a recurrent encoder-decoder "
            "(RnnForSeq2Seq)"
        )
    return engine.spec.target


def _decoder(engine: Engine) -> Engine:
    assert engine.decoder is not None, "there is a target"
    return engine.decoder


def _begin(pack: Sequence[Ids], slots: list[int], engine: Engine) -> None:
    """Read the sequences, and begin one of the decoder's after each; `slots` gets theirs."""
    for state in engine.last_states(pack):
        slots.append(_decoder(engine).open(state))


def _steps(turn: Turn, pack: Sequence[Ids], most: int) -> Generator[Step, None, None]:
    """The likeliest token each time, for all sequences at once, until they have ended.

    Of each step: the sequences that had not ended, their next tokens, and the logits [M, V] that these are of.
    """
    shared, target, slots = turn.shared, need_target(turn.shared.engine), list[int]()
    try:
        shared.step(turn, partial(_begin, pack, slots))
        alive = list(range(len(slots)))
        tokens = [target.start] * len(slots)
        for position in range(1, most + 1):  # the state is position 0
            logits = shared.step(turn, partial(_logits, tokens, [slots[i] for i in alive], position))
            if not np.isfinite(logits).all():
                raise ModelError("a logit is NaN or infinite: the weights are damaged, or overflow in this format")
            tokens = logits.argmax(axis=1).tolist()
            yield alive, tokens, logits
            alive = [i for i, token in zip(alive, tokens, strict=True) if token != target.end]
            tokens = [token for token in tokens if token != target.end]
            if not alive:
                break
    finally:
        for slot in slots:
            shared.free_slot(slot, _decoder(shared.engine))


def _logits(tokens: list[int], slots: list[int], position: int, engine: Engine) -> NDArray[np.float32]:
    """float32 [M, V] after one more token of each slot."""
    count = len(tokens)
    return _decoder(engine).forward(tokens, slots, [position] * count, range(count))
