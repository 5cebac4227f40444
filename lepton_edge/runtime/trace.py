"""What a model makes of a sequence on the way: the states between its layers, and what its heads attend to.

The executor runs a step and pauses before some of its rows.  Kernels keep no shares of attention, so those are computed
of the activations that lie there, by what the reference executor says that a row of attention means: exact, and slow.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import Cancelled, RequestError
from ..kernels.ops import CAUSAL, MEMORY
from ..models.spec import ModelSpec
from ..program import Program
from ..program.batch import Batch, Ints
from ..program.reference import Array, Reference, attended
from .plan import Plan

if TYPE_CHECKING:
    from .engine import Engine
    from .pair import PairEngine

__all__ = ["Trace", "Watch", "trace"]

MOST = 1 << 32  # bytes of a trace: what a large context asks for would not fit into memory

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Trace:
    """What a model made of T token ids, as transformers calls it.

    Attributes:
        ids: int32 [T].
        hidden_states: float32 [T, H] before each layer, and the last ones, final norm included; empty if not asked for.
        attentions: float32 [heads, T, T] of each layer that attends; [t, s] is how much token t takes of token s.
        cross_attentions: float32 [heads, T, S] of each layer of a decoder that attends to a source of S tokens.
        encoder: what the encoder made of the source, where there is one.
    """

    ids: NDArray[np.int32]
    hidden_states: tuple[Floats, ...] = ()
    attentions: tuple[Floats, ...] = ()
    cross_attentions: tuple[Floats, ...] = ()
    encoder: "Trace | None" = None


def trace(
    engine: "Engine", ids: NDArray[np.int32], segments: Ints | None, target: NDArray[np.int32] | None,
    plan: Plan | None, hidden: bool, attentions: bool,
) -> Trace:  # fmt: skip
    """What a model makes of a sequence int32 [T], T > 0.

    segments: of an encoder's tokens.  target: what an encoder-decoder's decoder reads; None for the encoder alone.
    Raises RequestError for what would be too large, ContextLengthError past the context, Cancelled after `cancel`.
    """
    if engine.spec.encoder is not None:
        return _of_pair(cast("PairEngine", engine), ids, target, hidden, attentions)
    program = (plan or engine._plan).program
    watch = Watch(program, engine.spec, len(ids), 0, hidden, attentions)
    with watch.on(engine):
        if engine.spec.causal:
            last = _decode(engine, engine.open(), ids, plan)
        else:
            last = engine.encode([ids], None if segments is None else [segments], hidden=True)[0]
    return watch.trace(ids, last)


def _of_pair(engine: "PairEngine", ids: NDArray[np.int32], target: NDArray[np.int32] | None, hidden: bool,
             attentions: bool) -> Trace:  # fmt: skip
    spec, encoder = engine.spec, engine.encoder
    watch = Watch(encoder.program, encoder.spec, len(ids), 0, hidden, attentions)
    with watch.on(encoder):
        memory = engine.remember([ids])[0]
    try:
        source = watch.trace(ids, encoder._plan.view("x", len(ids)).copy())
        if target is None:
            return source
        beside = Watch(engine.program, spec, len(target), len(ids), hidden, attentions)
        beside.cache, slot = watch.cache, engine.open_with(memory)
        beside.memories[slot] = memory
        with beside.on(engine):
            last = _decode(engine, slot, target, None)
        return beside.trace(target, last, source)
    finally:
        engine.close_slot(memory)


def _decode(engine: "Engine", slot: int, ids: NDArray[np.int32], plan: Plan | None) -> Floats:
    """A decoder's last states of a sequence, in a slot that is closed then."""
    try:
        found = engine.forward(ids, [slot] * len(ids), range(len(ids)), range(len(ids)), plan, hidden=True)
        return found / np.float32(engine.spec.logit_scale)  # which the norm before the head has multiplied with
    finally:
        engine.close_slot(slot)


class Watch(Reference):
    """Looks at the steps of an executor that runs one sequence; `trace` says what was seen."""

    def __init__(self, program: Program, spec: ModelSpec, tokens: int, source: int, hidden: bool,
                 attentions: bool) -> None:  # fmt: skip
        """source: tokens of what a decoder attends to.  RequestError where that would take too much memory."""
        super().__init__(program, spec)
        self._hidden, self._states = hidden, dict[int, list[Floats]]()
        kinds = ("attention_", "rope_") if attentions else ()
        rows = {at: row for at, row in enumerate(program.rows) if row.op.startswith(kinds)}
        shapes = {
            at: (int(row.values["heads"] or 0), tokens, source if row.values.get("sight") == MEMORY else tokens)
            for at, row in rows.items() if row.op.startswith("attention_")
        }  # fmt: skip
        numbers = sum(h * t * s for h, t, s in shapes.values())
        numbers += tokens * spec.hidden * (1 + len(spec.layers)) if hidden else 0
        if 4 * numbers > MOST:
            raise RequestError(
                f"what is asked for of {tokens} tokens takes {4e-9 * numbers:.1f} GB; expected at most "
                f"{MOST / 1e9:.1f}: give fewer tokens, or ask for less"
            )
        self._shares = {at: np.zeros(shape, np.float32) for at, shape in shapes.items()}
        self._stops = sorted({*rows, *(program.layer_rows if hidden else ())})

    @contextlib.contextmanager
    def on(self, engine: "Engine") -> Iterator[None]:
        """Look at the engine's steps meanwhile."""
        engine._watch = self
        try:
            yield
        finally:
            engine._watch = None

    def walk(self, engine: "Engine", plan: Plan, batch: Batch, threads: int) -> int:
        """Run a step on inputs that are there already, up to the last row before which there is something to see;
        -> that row.  Cancelled after `cancel`."""
        first = 0
        for stop in self._stops:
            if engine._walk(plan, first, stop, len(batch[0]), threads, None):
                raise Cancelled("stopped by cancel()")
            self._look(plan, stop, batch)
            first = stop
        return first

    def _look(self, plan: Plan, at: int, batch: Batch) -> None:
        slots, positions, count = batch[1], batch[2], len(batch[0])
        self.batch, self.buffers = batch, _Views(plan, count)
        self.lengths = {int(slots[0]): int(positions[0])}
        if self._hidden and at in self.program.layer_rows:
            widened = at == self.program.layer_rows[0] and not self.spec.residual and self.spec.embed_width
            self._states.setdefault(at, []).append(plan.view("embedded" if widened else "x", count).copy())
        row = self.program.rows[at]
        if at in self._shares:
            for position, (first, shares) in zip(positions.tolist(), attended(self, row.values), strict=True):
                self._shares[at][:, position, first : first + shares.shape[2]] = shares.reshape(-1, shares.shape[2])
        elif row.op.startswith("rope_") and at in self._stops:
            self.run_row(row)

    def trace(self, ids: NDArray[np.int32], last: Floats, encoder: Trace | None = None) -> Trace:
        """What was seen.  last: the states float32 [T, H] after all."""
        scale = np.float32(self.spec.residual_scale)
        states = [np.concatenate(parts) * scale for _, parts in sorted(self._states.items())]
        apart = {sight: tuple(
            shares for at, shares in self._shares.items()
            if (self.program.rows[at].values.get("sight", CAUSAL) == MEMORY) == (sight == MEMORY)
        ) for sight in (CAUSAL, MEMORY)}  # fmt: skip
        return Trace(ids, (*states, last) if self._hidden else (), apart[CAUSAL], apart[MEMORY], encoder)


class _Views(dict[str, Array]):
    """The activations of a step's first tokens, as the reference has them; copied when they are asked for."""

    def __init__(self, plan: Plan, tokens: int) -> None:
        super().__init__()
        self._plan, self._tokens = plan, tokens

    def __missing__(self, name: str) -> Array:
        self[name] = self._plan.view(name, self._tokens).astype(np.float64)
        return self[name]
