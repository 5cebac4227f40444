"""One engine, used by several threads: each has sequences of its own, and one forward call runs at a time."""

from __future__ import annotations

import reprlib
import threading
import time
import weakref
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from lepton_edge.errors import Cancelled, RequestError
from lepton_edge.generate.kept import KeptSequences

if TYPE_CHECKING:
    from lepton_edge.adapters import Adapter
    from lepton_edge.generate.sampling import Sampler
    from lepton_edge.runtime import Engine, Plan

CANCEL_TRIES = 20
CANCEL_PAUSE = 0.001  # s
LAST = np.zeros(1, np.int32)
NOTHING = np.empty(0, np.int32)

Result = TypeVar("Result")


class Use(Enum):
    """Stands for the adapter that `SharedEngine.use_adapter` chose."""

    CHOSEN = "chosen"

    def __repr__(self) -> str:
        return "CHOSEN"


class SharedEngine:
    """Hands out sequences, lets them take turns, and cancels them.

    Locks are re-entrant: a signal handler may call `cancel` inside a step, and the garbage collector may end a
    forgotten stream anywhere.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._turn = threading.RLock()  # held for a call of the engine
        self._state = threading.RLock()  # guards the fields below, for an instant
        self._sequences: weakref.WeakSet[Sequence] = weakref.WeakSet()
        self._stepping: Sequence | None = None
        self._stepper = 0  # the thread inside a forward call, as get_ident() names it
        self._ended: list[tuple[Engine, int]] = []  # slots to free
        self._kept = KeptSequences(engine.context)
        self._plans: dict[str, Plan] = {}  # by the names of adapters
        self._chosen: str | None = None
        self._closed = False

    def begin(self, keep: bool = False, adapter: str | Use | None = Use.CHOSEN) -> Sequence:
        """A new sequence, which `cancel` reaches from now on; it takes a slot with `open`.

        keep: when it is closed, it stays in the cache for a later one that begins alike.
        adapter: a name; None for none.

        Raises:
            RequestError: the engine is closed, this thread is inside a forward call, or there is no such adapter.
        """
        self.check_usable()
        with self._state:
            sequence = Sequence(self, keep, self._plan(self._chosen if isinstance(adapter, Use) else adapter))
            self._sequences.add(sequence)
        return sequence

    # -- adapters ----------------------------------------------------------------------------------------------------

    @property
    def adapters(self) -> list[str]:
        """The names of the adapters that are loaded."""
        with self._state:
            return list(self._plans)

    def add_adapter(self, name: str, read: Callable[[], Adapter]) -> None:
        """Load an adapter; requests may run meanwhile. RequestError for a name that is taken or none."""
        if not isinstance(name, str) or not name:
            raise RequestError(f"name is {reprlib.repr(name)}; expected a name for the adapter")
        self.check_usable()
        self._check_free(name)
        plan = self.engine.add_adapter(read())
        with self._state:
            self._check_free(name)
            self._plans[name] = plan

    def use_adapter(self, name: str | None) -> None:
        """The adapter of the sequences that begin from now on."""
        with self._state:
            self._plan(name)
            self._chosen = name

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter. Sequences that have begun with it go on."""
        with self._turn:
            with self._state:
                plan = self._plan(name)
                if plan is None:
                    raise RequestError("name is None; expected the name of an adapter")
                del self._plans[name]
                self._chosen = None if self._chosen == name else self._chosen
            for slot in self._kept.drop(plan):
                self.free_slot(slot)

    def _plan(self, name: str | None) -> Plan | None:
        if name is None:
            return None
        found = self._plans.get(name) if isinstance(name, str) else None
        if found is None:
            loaded = ", ".join(self._plans) or "none"
            raise RequestError(f"no adapter {reprlib.repr(name)}; loaded are: {loaded}; load it with load_adapter")
        return found

    def _check_free(self, name: str) -> None:
        if name in self._plans:
            raise RequestError(f"the adapter {name!r} is loaded already; unload it first, or choose another name")

    # -- steps -------------------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Stop every sequence there is: its running or next step raises Cancelled. Later ones are not affected."""
        with self._state:
            for sequence in self._sequences:
                sequence.cancelled = True
        # Once is enough, unless the step is only about to begin: the engine ignores a cancel before it.
        for _ in range(CANCEL_TRIES):
            with self._state:
                if self._stepping is None or not self._stepping.cancelled:
                    return
                self.engine.cancel()
            time.sleep(CANCEL_PAUSE)

    def close(self) -> None:
        """Stop every sequence and close the engine. A second call does nothing."""
        with self._state:
            if self._closed:
                return
            self.check_usable()
            self._closed = True
        self.cancel()
        with self._turn:
            self.engine.close()

    def check_usable(self) -> None:
        """RequestError if the engine is closed, or this thread is inside a forward call (in a signal handler)."""
        if self._closed:
            raise RequestError("this model is closed; load it again")
        if self._stepper == threading.get_ident():
            raise RequestError("the model was called from inside one of its own steps; call it from another thread")

    def step(self, sequence: Sequence, work: Callable[[Engine], Result]) -> Result:
        """`work`, which makes one call of the engine for one sequence, when its turn comes; -> what it returns."""
        with self._turn:
            self.check_usable()
            try:
                with self._state:
                    if sequence.cancelled:
                        raise Cancelled("the request was cancelled")
                    self._stepping, self._stepper = sequence, threading.get_ident()
                return work(self.engine)
            finally:
                with self._state:
                    self._stepping, self._stepper = None, 0
                self._free()

    def take_slot(self) -> int:
        """A slot of the engine."""
        with self._turn:
            self.check_usable()
            return self.engine.open()

    def take_kept(self, prompt: NDArray[np.int32], plan: Plan | None) -> tuple[int, list[int]]:
        """A slot, and the tokens in it: those of `prompt` int32 [T] that a kept sequence began with as well."""
        with self._turn:
            self.check_usable()
            found = self._kept.take(prompt, plan)
            if found is None:
                return self.engine.open(), []
            slot, tokens = found
            try:
                self.engine.truncate(slot, len(tokens))
            except RequestError:
                # A model that keeps a state cannot go back to where the conversation changed.
                self.engine.truncate(slot, 0)
                return slot, []
            return slot, tokens

    def keep_slot(self, slot: int, tokens: list[int], plan: Plan | None) -> None:
        """Leave a slot to later sequences; `tokens` are in it, as `plan` ran them."""
        with self._turn:
            gone = plan is not None and plan not in self._plans.values()
            for dropped in [slot] if gone else self._kept.put(slot, tokens, plan):
                self.free_slot(dropped)

    def free_slot(self, slot: int, engine: Engine | None = None) -> None:
        """Give a slot back: now, or at the end of the step that the garbage collector interrupted to come here.

        engine: that has the slot, a part of this one; None: this one.
        """
        with self._turn:
            self._ended.append((engine or self.engine, slot))
            if self._stepping is None:
                self._free()

    def _free(self) -> None:
        while self._ended and not self._closed:
            engine, slot = self._ended.pop()
            engine.close_slot(slot)


class Sequence:
    """One sequence of tokens in the engine's cache: `open`, `feed` tokens, and `close` whatever happens.

    Attributes:
        shared: the engine.
        plan: of its adapter; None for the model alone.
        slot: its number in the engine; None while it has none.
        length: tokens in the cache.
        tokens: which they are, for a sequence that is kept; else empty.
        cancelled: set by `SharedEngine.cancel`; no step follows.
    """

    def __init__(self, shared: SharedEngine, keep: bool, plan: Plan | None) -> None:
        self.shared = shared
        self.plan = plan
        self.slot: int | None = None
        self.length = 0
        self.tokens: list[int] = []
        self.cancelled = False
        self._keep = keep

    def open(self, prompt: NDArray[np.int32] = NOTHING) -> None:
        """Take a slot. Where sequences are kept, it may hold the beginning of `prompt` int32 [T], never all of it."""
        if self._keep:
            self.slot, self.tokens = self.shared.take_kept(prompt, self.plan)
            self.length = len(self.tokens)
        else:
            self.slot = self.shared.take_slot()

    def close(self) -> None:
        """Give the slot back, if there is one."""
        slot, self.slot = self.slot, None
        if slot is None:
            return
        if self.tokens:
            self.shared.keep_slot(slot, self.tokens, self.plan)
        else:
            self.shared.free_slot(slot)

    def feed(
        self, tokens: NDArray[np.int32], wanted: NDArray[np.int32], hidden: bool = False
    ) -> NDArray[np.float32]:
        """Append tokens int32 [T], at most max_batch; logits float32 [M, V] after those that `wanted` int32 [M] names,
        or, `hidden`, the states [M, H] that they are computed of.

        Raises:
            Cancelled: `cancel` was called; close the sequence.
        """
        slots, positions = self._places(tokens.size)
        logits = self.shared.step(
            self, lambda engine: engine.forward(tokens, slots, positions, wanted, self.plan, hidden)
        )
        self._append(tokens)
        return logits

    def follow(self, tokens: NDArray[np.int32], sampler: Sampler) -> tuple[int, float]:
        """Append tokens int32 [T], 1 to max_batch; -> the sampler's next token and its log-probability.

        Raises:
            Cancelled: `cancel` was called; close the sequence.
            ModelError: a logit is NaN or infinite.
        """
        slots, positions = self._places(tokens.size)
        last = LAST if tokens.size == 1 else np.array([tokens.size - 1], np.int32)

        def work(engine: Engine) -> tuple[int, float]:
            # Within the turn, for the summary's memory belongs to the next step.
            summary = engine.step(tokens, slots, positions, last, (sampler.temperature,), self.plan)
            return sampler.choose(summary, 0)

        chosen = self.shared.step(self, work)
        self._append(tokens)
        return chosen

    def _append(self, tokens: NDArray[np.int32]) -> None:
        """Tokens int32 [T] are in the cache now."""
        self.length += tokens.size
        if self._keep:
            self.tokens += tokens.tolist()

    def _places(self, count: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Slots and positions int32 [count] of the next tokens."""
        slots = np.array([self.slot] * count, np.int32)  # np.full takes 4 us longer
        return slots, np.arange(self.length, self.length + count, dtype=np.int32)
