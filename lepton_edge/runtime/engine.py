"""The CPU executor: a program bound to memory, threads and a cache, run a batch of tokens at a time."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..checkpoint.store import Weight
from ..errors import Cancelled, RequestError
from ..kernels.layout import (
    CONTEXT_FIELDS,
    COUNTS,
    HEATS,
    MAX_THREADS,
    PAGES,
    PAGES_STRIDE,
    PARTIALS,
    PROGRAM,
    ROWS,
    SCRATCH,
    SCRATCH_STRIDE,
    SMALL,
    SPLIT_ITEMS,
    STAMPS,
    STATES,
    SYNC,
    THREADS,
    YIELD,
)
from ..kernels.library import callable_kernel, kernels
from ..kernels.machine import choose
from ..kernels.ops import CACHES, COUNTER, ROW
from ..models.spec import ModelSpec
from ..program import Program, build_program
from ..program.batch import Batch, Ints, read_batch
from ..program.summary import Summary, heat, read_summary
from ..quant.formats import get_format
from .cpu import default_threads
from .crew import Crew
from .inputs import Inputs, read_segments
from .memory import aligned_zeros
from .pages import HostPages, Pages
from .plan import MAX_BATCH, Plan
from .pool import Pool, yield_address
from .profile import Profile
from .source import Source, converted
from .states import States

if TYPE_CHECKING:
    from ..adapters.delta import Adapter
    from .trace import Watch

__all__ = ["Engine", "Source"]

MAX_SLOTS = 256
SHORT_STEP = 1e9  # weight bytes x tokens below which the caller runs along: some 50 ms at the slowest
ROPE_BLOCK = 1024  # positions whose angles are computed at a time

Array = NDArray[Any]


class Engine:
    """Runs a decoder on the CPU.  Sequences live in slots; a step takes tokens of any of them.

    One step runs at a time: calls from several threads wait for each other.
    """

    max_batch = MAX_BATCH

    def __init__(self, program: Program, spec: ModelSpec, source: Source, weight: Callable[[str], Weight],
                 threads: int, isa: str, notify: Callable[[str], None] | None = None,
                 beside: "Engine | None" = None) -> None:  # fmt: skip
        """Binds the program; see `load`.  beside: an engine with the same pages and threads, which lets one run."""
        self.program, self.spec, self.threads, self.isa = program, spec, threads, isa
        self.vocab, self.context = program.vocab, program.context
        self._source, self._weight, self._notify = source, weight, notify
        self._lock = threading.Lock()
        self._pages: Pages[Any] = beside._pages if beside else self._new_pages()
        self._states = States(program.state_bytes, MAX_SLOTS)
        self._ropes: dict[str, NDArray[np.float32]] = {
            name: aligned_zeros(program.context * rope.dim * 4).view(np.float32).reshape(program.context, rope.dim)
            for name, rope in program.ropes.items()
        }
        self._ropes_filled = 0
        self._plan = self._new_plan(program)
        self.max_wanted = self._plan.max_wanted
        self._inputs = self._new_inputs(self.max_batch)
        self._counts = np.zeros(5, np.int64)
        self._heats = np.ones(self.max_wanted, np.float32)
        self._summaries: dict[int, Summary] = {}
        self._scratch = aligned_zeros(program.scratch_bytes * threads)
        self._partials = aligned_zeros(program.partial_bytes)
        self._split_counters = self._partials[: 8 * SPLIT_ITEMS].view(np.int64)
        walk = kernels(["walk"], isa, notify)["walk"]
        self._pool: Pool = beside._pool if beside else Pool(callable_kernel(walk), threads)
        self._profile: Profile | None = None
        self._watch: Watch | None = None
        self.decoder: Engine | None = None  # of the model's target
        self._crew = Crew(threads)
        self._context = np.zeros(CONTEXT_FIELDS, np.int64)
        self._point({
            SYNC: self._pool.sync, SCRATCH: self._scratch.ctypes.data, SCRATCH_STRIDE: program.scratch_bytes,
            YIELD: yield_address(), COUNTS: self._counts.ctypes.data, PAGES: self._pages.table.ctypes.data,
            PAGES_STRIDE: self._pages.table.strides[0], PARTIALS: self._partials.ctypes.data,
            HEATS: self._heats.ctypes.data, STATES: self._states.table.ctypes.data, **self._inputs.addresses(),
        })  # fmt: skip
        self._context_at = self._context.ctypes.data  # asking for it takes 1.5 us

    @classmethod
    def load(cls, source: Source, spec: ModelSpec, *, format: str | None = None, threads: int | None = None,
             isa: str | None = None, kv_dtype: str | None = None, context: int | None = None,
             notify: Callable[[str], None] | None = None) -> "Engine":  # fmt: skip
        """An engine for a checkpoint.

        format: None runs the weights as they lie; else matrices stored otherwise are converted in memory, but for
        those in MXFP4 where the format is packed too.
        threads: None for the physical cores.  isa: None for the best.  context: None for the model's own.
        kv_dtype: 'f16', 'q8' or 'f32'; None for f32 where the weights are f32, else f16.
        """
        isa = choose(isa)
        threads = _integer("threads", threads, 1, MAX_THREADS, default_threads())
        length = _integer("context", context, 1, spec.context, spec.context)
        if kv_dtype not in (None, *CACHES):
            raise RequestError(f"kv_dtype={kv_dtype!r}: expected one of {', '.join(CACHES)}")
        if format is not None:
            get_format(format)
        source.require(spec.tensors())
        weight = converted(source, spec.matrices(), format)
        if kv_dtype is None:
            kv_dtype = "f32" if weight(spec.first_matrix).format == "f32" else "f16"
        kind = cls if spec.encoder is None else cls._of_pairs()
        engine = kind(build_program(spec, weight, kv_dtype, length), spec, source, weight, threads, isa, notify)
        if spec.target is not None:
            engine.decoder = cls.load(source, spec.target.spec, format=format, threads=threads, isa=isa,
                                      kv_dtype=kv_dtype, notify=notify)  # fmt: skip
        return engine

    @classmethod
    def _of_pairs(cls) -> "type[Engine]":
        """The engine for encoder-decoders."""
        from .pair import PairEngine

        return PairEngine

    def add_adapter(self, adapter: "Adapter") -> Plan:
        """What `forward` and `step` need to run the model with an adapter, beside the weights as they are.

        Steps may run meanwhile.  MachineError where kernels cannot be compiled, ModelError where it does not fit.
        """
        base = self.program
        program = build_program(self.spec, self._weight, base.kv_dtype, base.context, adapter)
        same = (program.page_bytes, program.state_bytes, program.partial_bytes, program.ropes)
        assert same == (base.page_bytes, base.state_bytes, base.partial_bytes, base.ropes), "one cache serves both"
        plan = self._new_plan(program, self._plan)
        with self._lock:
            self._pool.drain()
            if program.scratch_bytes > self._context[SCRATCH_STRIDE // 8]:
                self._scratch = aligned_zeros(program.scratch_bytes * self.threads)
                self._point({SCRATCH: self._scratch.ctypes.data, SCRATCH_STRIDE: program.scratch_bytes})
        return plan

    # -- what other executors have otherwise ------------------------------------------------------------------------

    def _new_pages(self) -> Pages[Any]:
        """An empty cache."""
        return HostPages(self.program.page_bytes, self.program.context, MAX_SLOTS)

    def _new_inputs(self, room: int) -> Inputs:
        """What a step of at most `room` tokens is told."""
        return Inputs(room, self.program.query_tile)

    def _new_plan(self, program: Program, base: Plan | None = None, room: int = MAX_BATCH) -> Plan:
        """A program bound to memory, beside the model's own where it is another one's."""
        found = kernels([*program.ops(), "walk"], self.isa, self._notify)
        return Plan(program, found, self._ropes, self.threads, base, room)

    # -- sequences ------------------------------------------------------------------------------------------------

    def open(self, state: Array | None = None) -> int:
        """A new, empty sequence; -> its slot.  state: of `last_states`, which counts as its position 0."""
        with self._lock:
            slot = self._pages.open()
            if state is not None:
                self._states.write(slot, state)
                self._pages.lengths[slot] = 1  # at position 0 kernels would begin with zeros
            return slot

    def close_slot(self, slot: int) -> None:
        """Forget a sequence; its memory goes to the next one."""
        with self._lock:
            self._pages.close(slot)
            self._states.close(slot)

    def length(self, slot: int) -> int:
        """Positions of a sequence that are in the cache."""
        self._pages.check(slot)
        return self._pages.lengths[slot]

    def truncate(self, slot: int, length: int) -> None:
        """Forget a sequence's positions from `length` on; their memory goes to the next sequence that grows.

        RequestError where `can_truncate` is False, but for 0 and for the sequence's own length.
        """
        with self._lock:
            self._pages.check(slot)
            if not self.can_truncate and length not in (0, self._pages.lengths[slot]):
                raise RequestError(
                    f"cannot truncate sequence {slot} to {length}: this model keeps a state, which says nothing of "
                    "single positions; truncate to 0 and feed the tokens again"
                )
            self._pages.truncate(slot, length)

    @property
    def can_truncate(self) -> bool:
        """Whether a sequence can forget its last positions; a recurrent state cannot, it only can begin anew."""
        return self.program.state_bytes == 0

    @property
    def cache_bytes(self) -> int:
        """Bytes of the cache of keys and values, and of the recurrent states."""
        return self._pages.nbytes + self._states.nbytes

    @property
    def device(self) -> str:
        """What computes: 'cpu', or the name of a GPU."""
        return "cpu"

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        return self.program.weight_bytes

    @property
    def format(self) -> str:
        """The format of most weight bytes."""
        sizes: dict[str, int] = {}
        for weight in self.program.weights.values():
            sizes[weight.format] = sizes.get(weight.format, 0) + weight.data.nbytes
        return max(sizes, key=lambda name: sizes[name])

    # -- steps ------------------------------------------------------------------------------------------------------

    def forward(
        self, tokens: Ints, slots: Ints, positions: Ints, wanted: Ints, plan: Plan | None = None, hidden: bool = False
    ) -> NDArray[np.float32]:  # fmt: skip
        """Run a batch of T tokens, each with its slot and position; -> float32 [M, V], logits of the wanted ones.

        tokens, slots, positions: [T] integers.  A sequence's positions must continue it without a gap.  wanted: [M]
        rising indices into the batch.  plan: of `add_adapter`; None for the model alone.  All tokens of a sequence
        should be run with the same one.  hidden: [M, H], what the head reads, instead.  Raises RequestError for wrong
        arguments, ContextLengthError past the context, Cancelled after `cancel`; the sequences' lengths then count only
        steps that were finished, and where a model cannot truncate, the sequences of the step that was not are empty.
        """
        with self._lock:
            self._check_causal(True)
            ids, where, at, picks = self._read(tokens, slots, positions, wanted)
            self._pool.ready()
            plan = plan or self._plan
            name, rows = plan.result(hidden)
            out = np.empty((len(picks), plan.program.buffers[name].columns), np.float32)
            start = done = 0
            while start < len(ids):
                stop = min(start + self.max_batch, len(ids))
                limit = done + self.max_wanted  # a step stops before a token whose logits there is no room for
                if limit < len(picks) and picks[limit] < stop:
                    stop = int(picks[limit])
                here = picks[done : np.searchsorted(picks, stop)]
                part = ids[start:stop], where[start:stop], at[start:stop], here - start
                self._step(plan, rows, *part)
                out[done : done + len(here)] = plan.view(name, len(here))
                start, done = stop, done + len(here)
            return out

    def step(
        self, tokens: Ints, slots: Ints, positions: Ints, wanted: Ints, temperatures: Sequence[float] | None = None,
        plan: Plan | None = None,
    ) -> Summary:  # fmt: skip
        """As `forward`, without a copy: -> what the engine's memory says of the wanted tokens, until the next call.

        At most `max_batch` tokens and `max_wanted` wanted ones (else RequestError); temperatures: [M] numbers above 0
        for `Summary.heated`; None for 1.  A thread must not let another one step before it has read the summary.
        """
        with self._lock:
            self._check_causal(True)
            ids, where, at, picks = self._read(tokens, slots, positions, wanted)
            n, m = len(ids), len(picks)
            if n > self.max_batch or m > self.max_wanted:
                most = f"{self.max_batch} and {self.max_wanted}"
                raise RequestError(f"{n} tokens, {m} wanted: a step takes at most {most}")
            if temperatures is not None and (len(temperatures) != m or not all(t > 0 for t in temperatures)):
                raise RequestError(f"temperatures: expected {m} numbers above 0")
            for i in range(m):
                self._heats[i] = 1.0 if temperatures is None else heat(temperatures[i])
            if n:
                self._pool.ready()
                plan = plan or self._plan
                self._step(plan, len(plan.table), ids, where, at, picks)
            return self._summary(m)

    def encode(
        self, sequences: Sequence[Ints], segments: Sequence[Ints] | None = None, hidden: bool = False
    ) -> list[NDArray[np.float32]]:  # fmt: skip
        """What an encoder gives of whole sequences, computed in one step, one array for each: float32 [T, N] where the
        head is for each token, else [N].

        segments: of each token, where the model knows any; None for 0.  hidden: the final hidden states [T, H].  Raises
        RequestError for wrong arguments, ContextLengthError past the context, Cancelled after `cancel`.
        """
        if self.spec.head is None and not hidden:
            raise RequestError("this model has no head; its hidden states are what it gives: hidden=True")
        return self._whole(sequences, segments, hidden)[0]

    def last_states(self, sequences: Sequence[Ints]) -> list[Array]:
        """The recurrent states in which an encoder leaves whole sequences, for `open` of `decoder`.

        Errors as of `encode`.
        """
        return self._whole(sequences, None, True)[1]

    def _whole(self, sequences: Sequence[Ints], segments: Sequence[Ints] | None,
               hidden: bool) -> tuple[list[NDArray[np.float32]], list[Array]]:  # fmt: skip
        """What `encode` gives, and the states."""
        with self._lock:
            self._check_causal(False)
            lengths = [len(sequence) for sequence in sequences]
            if not all(lengths):
                raise RequestError("an empty sequence; expected at least one token in each")
            slots = self._pages.open_many(len(lengths))
            try:
                found = self._encode(sequences, lengths, segments, slots, hidden)
                return found, [self._states.read(slot) for slot in slots]
            finally:
                for slot in slots:
                    self._pages.close(slot)
                    self._states.close(slot)

    def _encode(self, sequences: Sequence[Ints], lengths: list[int], segments: Sequence[Ints] | None, slots: list[int],
                hidden: bool) -> list[NDArray[np.float32]]:  # fmt: skip
        if not lengths:
            return []
        plan = self._run_whole(sequences, lengths, segments, slots)
        ends = np.cumsum(lengths)
        if hidden:
            return np.split(plan.view(plan.program.states, ends[-1]).copy(), ends[:-1])
        head = self.spec.head
        assert head is not None
        each = head.pool == "each"
        picks = np.arange(ends[-1]) if each else ends - 1 if head.pool == "last" else ends - lengths
        found = self._heads(plan, picks, head.outputs)
        return np.split(found, ends[:-1]) if each else list(found)

    def _run_whole(
        self, sequences: Sequence[Ints], lengths: list[int], segments: Sequence[Ints] | None, slots: list[int]
    ) -> Plan:  # fmt: skip
        """Run whole sequences up to their hidden states, which are then in the plan that is returned."""
        numbers = np.concatenate([np.asarray(sequence) for sequence in sequences])
        ids, where, at, _ = self._read(
            numbers, np.repeat(slots, lengths), np.concatenate([np.arange(n) for n in lengths]), []
        )
        kinds = read_segments(segments, lengths, max(1, self.spec.segments))
        self._make_room(len(ids))
        self._inputs.segment(kinds)
        self._pool.ready()
        self._step(self._plan, self.program.state_rows, ids, where, at, np.empty(0, np.int64))
        return self._plan

    def _heads(self, plan: Plan, picks: Array, outputs: int) -> NDArray[np.float32]:
        """What the head gives of some tokens of the step that was run last, [M, N]."""
        out, first = np.empty((len(picks), outputs), np.float32), plan.program.state_rows
        for start in range(0, len(picks), self.max_wanted):
            here = picks[start : start + self.max_wanted]
            self._inputs.pick(here)
            self._counts[1] = len(here)
            if self._walk(plan, first, plan.program.logits_rows, len(here), self._crew.threads, None):
                raise Cancelled("stopped by cancel()")
            out[start : start + len(here)] = plan.view("logits", len(here))
        return out

    def _make_room(self, tokens: int) -> None:
        """See to it that a step may have so many tokens: an encoder sees a sequence whole, however long it is."""
        if tokens > self._plan.room:
            room = max(tokens, min(self.context, 2 * self._plan.room))
            self._pool.drain()
            self._inputs = self._new_inputs(room)
            self._point(self._inputs.addresses())
            self._plan = self._new_plan(self.program, room=room)

    @contextlib.contextmanager
    def profile(self) -> Iterator[Profile]:
        """Time every row of the steps that are run meanwhile, but for those with adapters.

        One profile at a time: RequestError for a second one.
        """
        with self._lock:
            if self._profile is not None:
                raise RequestError("this engine is being profiled already")
            profile = self._profile = Profile(self.program, self.threads)
        try:
            yield profile
        finally:
            with self._lock:
                self._pool.drain()
                self._profile = None

    def cancel(self) -> None:
        """Make a running `forward` raise Cancelled within milliseconds; no effect when none runs."""
        self._pool.cancel()
        if self.decoder is not None:
            self.decoder.cancel()

    def close(self) -> None:
        """End the worker threads."""
        with self._lock:
            self._pool.close()
        if self.decoder is not None:
            self.decoder.close()

    def _read(self, tokens: Ints, slots: Ints, positions: Ints, wanted: Ints) -> Batch:
        """The lists as int64 arrays, checked."""
        return read_batch(
            tokens, slots, positions, wanted, vocab=self.vocab, context=self.context, lengths=self._pages.lengths
        )

    def _summary(self, m: int) -> Summary:
        """Views of what the last step left of its m wanted tokens; made once for each m."""
        if m not in self._summaries:
            logits, peaks, top, ids = (self._plan.view(name, m) for name in ("logits", "peaks", "top", "top_ids"))
            self._summaries[m] = read_summary(logits, peaks, top, ids)
        return self._summaries[m]

    def _step(self, plan: Plan, rows: int, ids: Array, slots: Array, positions: Array, picks: Array) -> None:
        """One pass over the first rows of a program for at most `max_batch` checked tokens."""
        self._source.check_unchanged()
        profile = self._profile if plan is self._plan else None
        n, m = len(ids), len(picks)
        where = slots.tolist()
        ends = {slot: position + 1 for slot, position in zip(where, positions.tolist(), strict=True)}
        for slot, end in ends.items():
            self._pages.reserve(slot, end)
            self._states.reserve(slot)
        self._fill_ropes(max(ends.values()))
        causal = self.spec.causal
        self._inputs.write(ids, slots, positions, None if causal else ends)
        self._inputs.pick(picks)
        small = causal and n == len(ends) <= SMALL and self._watch is None
        self._counts[:] = n, m, self._inputs.cut_tiles(where), small, len(ends)
        if self.program.state_bytes or not causal:
            self._inputs.link(where)
        started = time.perf_counter()
        threads = self._crew.threads if profile is None else self.threads
        first = self._watch.walk(self, plan, (ids, slots, positions, picks), threads) if self._watch else 0
        if self._walk(plan, first, rows, n, threads, profile):
            if not self.can_truncate:
                for slot in ends:
                    self._pages.truncate(slot, 0)
            raise Cancelled("stopped by cancel()")
        ended = time.perf_counter()
        if profile is not None:
            self._pool.drain()  # every thread has written its last stamp
            profile.add((ids, slots, positions, picks), rows, started, ended)
        else:
            self._crew.report(self._pool.lost(threads), ended)
        self._pages.lengths.update(ends)

    def _walk(self, plan: Plan, first: int, rows: int, tokens: int, threads: int, profile: Profile | None) -> bool:
        """Run some rows of a program on the inputs as they are; -> whether it was cancelled."""
        plan.table[:, COUNTER] = 0
        self._split_counters[:] = 0
        self._context[THREADS // 8], self._context[STAMPS // 8] = threads, profile.stamps.ctypes.data if profile else 0
        self._context[PROGRAM // 8], self._context[ROWS // 8] = plan.at + first * ROW * 8, rows - first
        return self._pool.run(self._context_at, tokens * plan.step_bytes > SHORT_STEP, threads)

    def _point(self, fields: Mapping[int, int]) -> None:
        """Set fields of the kernels' context."""
        for field, value in fields.items():
            self._context[field // 8] = value

    def _check_causal(self, causal: bool) -> None:
        if self.spec.causal != causal:
            kind = "an encoder, which computes whole sequences" if causal else "a decoder, which computes steps"
            raise RequestError(f"this model is {kind}: use {'encode' if causal else 'forward or step'}")

    def _fill_ropes(self, positions: int) -> None:
        """Compute the angles of positions up to `positions`, a block at a time."""
        while self._ropes_filled < positions:
            start = self._ropes_filled
            stop = min(self.context, start + ROPE_BLOCK)
            for name, rope in self.program.ropes.items():
                cos, sin = rope.tables(start, stop)
                self._ropes[name][start:stop] = np.concatenate([cos, sin], axis=1)
            self._ropes_filled = stop


def _integer(name: str, value: int | None, low: int, high: int, default: int) -> int:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RequestError(f"{name}={value!r}: expected an integer from {low} to {high}")
    return value
