"""What a model makes of a text on the way: hidden states and attentions, as transformers gives them."""

from __future__ import annotations

import reprlib
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lepton_edge.errors import RequestError
from lepton_edge.generate.ids import token_ids
from lepton_edge.tasks.texts import encode, fits, pair_of

if TYPE_CHECKING:
    from lepton_edge.runtime.trace import Trace
    from lepton_edge.tasks.mixin import Tasks

__all__ = ["trace"]

Ids = NDArray[np.int32]


def trace(model: Tasks, text: Any, target: Any, hidden_states: bool, attentions: bool) -> Trace:
    """See `Tasks.trace`."""
    if not isinstance(hidden_states, bool) or not isinstance(attentions, bool) or not (hidden_states or attentions):
        raise RequestError("nothing is asked for; expected hidden_states=True, attentions=True, or both")
    if target is not None and model.spec.encoder is None:
        raise RequestError(f"{model.spec.family} models have no decoder beside their encoder; leave target out")
    ids, segments = _source(model, text)
    read = None if target is None else _target(model, target)
    return trace_ids(model, ids, segments, read, hidden_states, attentions)


def trace_ids(
    model: Tasks, ids: Ids, segments: Any, target: Ids | None, hidden_states: bool, attentions: bool
) -> Trace:
    """The same of tokens that are known to be right."""
    from lepton_edge.runtime.trace import trace

    with closing(model._shared.begin()) as turn:
        return model._shared.step(
            turn, lambda engine: trace(engine, ids, segments, target, turn.plan, hidden_states, attentions)
        )


def _source(model: Tasks, text: Any) -> tuple[Ids, list[int] | None]:
    """Token ids, and which of two texts each is of, where the model is told."""
    spec = model.spec
    whole = spec.causal or spec.encoder is not None
    segments, given = None, text
    if isinstance(text, str) and whole:
        given = model.tokenizer.encode(text)
    elif isinstance(text, str | dict) or (isinstance(text, list | tuple) and str in map(type, text)):
        if whole:
            raise RequestError(f"the text is {reprlib.repr(text)}; expected a string, or token ids")
        found = fits(model, encode(model, *pair_of(text)), "shorten it")
        given, segments = found.ids, found.types if model.token_types else None
    vocab = spec.encoder.vocab if spec.encoder is not None else spec.vocab
    return token_ids("text", given, vocab, model.context), segments


def _target(model: Tasks, target: Any) -> Ids:
    """What the decoder reads: ids as they are; of a text, what it would read to write it."""
    given = target
    if isinstance(target, str):
        from lepton_edge.tasks.translate import start_token

        given = [start_token(model), *model.tokenizer.encode(target)]
        given = given[:-1] if given[-1] in model.tokenizer.eos_ids else given
    return token_ids("target", given, model.spec.vocab, model.context)
