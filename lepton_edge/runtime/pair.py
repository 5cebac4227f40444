"""The executor of an encoder-decoder: a decoder's engine, and beside it the encoder's, with the same pages."""

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from ..checkpoint.store import Weight
from ..errors import RequestError, UnsupportedModelError
from ..models.spec import ModelSpec
from ..program import Program, build_program
from ..program.batch import Batch, Ints
from .engine import Engine, Source
from .plan import Plan

__all__ = ["PairEngine"]

Array = NDArray[Any]


class PairEngine(Engine):
    """Runs an encoder-decoder.  A source is encoded once, into a *memory*: a slot that holds the keys and values that
    the decoder's layers attend to.  Any number of sequences may attend to one memory."""

    def __init__(self, program: Program, spec: ModelSpec, source: Source, weight: Callable[[str], Weight],
                 threads: int, isa: str, notify: Callable[[str], None] | None = None) -> None:  # fmt: skip
        """Takes the decoder's program, and builds the encoder's."""
        assert spec.encoder is not None
        encoder = build_program(spec.encoder, weight, program.kv_dtype, program.context)
        needs = (program.page_bytes, program.memory_bytes, encoder.page_bytes, encoder.memory_bytes)
        program.page_bytes = encoder.page_bytes = max(needs)
        super().__init__(program, spec, source, weight, threads, isa, notify)
        self.encoder = self._alone(encoder, spec.encoder, source, weight, threads, isa, notify, beside=self)
        self._memories: dict[int, int] = {}

    _alone: type[Engine] = Engine  # runs the encoder

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        held = self.encoder.program.weights | self.program.weights
        return sum(weight.data.nbytes for weight in held.values())

    def remember(self, sources: Sequence[Ints]) -> list[int]:
        """Encode whole sequences of ids in one step; -> the slot of each one's memory, for `open_with`.

        Raises RequestError for wrong arguments or too few free slots, ContextLengthError past the context, Cancelled
        after `cancel`; then no slot is taken.
        """
        with self._lock:
            lengths = [len(ids) for ids in sources]
            if not all(lengths):
                raise RequestError("an empty source; expected at least one token in each")
            slots = self._pages.open_many(len(lengths))
            try:
                if slots:
                    self.encoder._run_whole(sources, lengths, None, slots)
            except BaseException:
                for slot in slots:
                    self._pages.close(slot)
                raise
            return slots

    def open_with(self, memory: int) -> int:
        """A new, empty sequence that attends to a memory, which must stay open as long; -> its slot."""
        with self._lock:
            self._pages.check(memory)
            slot = self._pages.open()
            self._memories[slot] = memory
            return slot

    def fork(self, slot: int) -> int:
        """A new sequence with all that this one has; they share the cache's pages until they differ; -> its slot."""
        with self._lock:
            other = self._pages.fork(slot)
            self._memories[other] = self._memories[slot]
            return other

    def close_slot(self, slot: int) -> None:
        """Forget a sequence or a memory."""
        super().close_slot(slot)
        self._memories.pop(slot, None)

    def add_adapter(self, adapter: Any) -> Plan:
        """UnsupportedModelError: adapters of encoder-decoders are not supported."""
        raise UnsupportedModelError(
            f"adapters for {self.spec.family} models are not supported; merge the adapter with `lepton merge`"
        )

    def _read(self, tokens: Ints, slots: Ints, positions: Ints, wanted: Ints) -> Batch:
        batch = super()._read(tokens, slots, positions, wanted)
        for slot in set(batch[1].tolist()):
            if not self._pages.lengths.get(self._memories.get(slot, -1)):
                raise RequestError(f"sequence {slot} has no memory to attend to; open it with open_with")
        return batch

    def _step(self, plan: Plan, rows: int, ids: Array, slots: Array, positions: Array, picks: Array) -> None:
        memories = [self._memories[slot] for slot in slots.tolist()]
        self._inputs.attend(memories, [self._pages.lengths[memory] for memory in memories])
        super()._step(plan, rows, ids, slots, positions, picks)
