"""A model without a model: logits depend on the last token only, and every call is checked as strictly as it can be."""

import threading
import time

import numpy as np

from lepton_edge.errors import Cancelled, RequestError
from lepton_edge.program.summary import Summary, summarise


class FakeEngine:
    """Has the engine's interface. `table[t]` are the logits after token t, float32 [V, V].

    on_forward: called inside each forward. blocked: forward calls number N and later wait until cancelled.
    """

    format, isa, threads, weight_bytes = "q8", "fake", 1, 0

    def __init__(self, table: np.ndarray, context: int = 64, max_batch: int = 4) -> None:
        self.table = np.asarray(table, np.float32)
        self.vocab = len(table)
        self.context = context
        self.max_batch = max_batch
        self.slots: dict[int, list[int]] = {}
        self.batches: list[int] = []
        self.on_forward = lambda: None
        self.blocked: int | None = None
        self.waiting = threading.Event()
        self.closed = False
        self.can_truncate = True
        self._busy = threading.Lock()
        self._running = False
        self._cancel = False

    @classmethod
    def chain(cls, *tokens: int, vocab: int, **options) -> "FakeEngine":
        """An engine that greedily continues tokens[0] with tokens[1], that with tokens[2], and so on in a circle."""
        table = np.random.default_rng(0).standard_normal((vocab, vocab)).astype(np.float32)
        for now, following in zip(tokens, [*tokens[1:], tokens[0]], strict=True):
            table[now, following] = 20
        return cls(table, **options)

    def open(self) -> int:
        assert not self.closed
        slot = len(self.slots) + 7
        while slot in self.slots:
            slot += 1
        self.slots[slot] = []
        return slot

    def close_slot(self, slot: int) -> None:
        assert not self.closed
        del self.slots[slot]

    def length(self, slot: int) -> int:
        return len(self.slots[slot])

    def truncate(self, slot: int, length: int) -> None:
        assert not self.closed
        if length > len(self.slots[slot]) or (not self.can_truncate and length not in (0, len(self.slots[slot]))):
            raise RequestError(f"cannot truncate to {length}")
        del self.slots[slot][length:]

    def forward(self, tokens, slots, positions, wanted, plan=None, hidden=False) -> np.ndarray:
        assert self._busy.acquire(blocking=False), "two forward calls at once"
        self._running, self._cancel = True, False
        try:
            return self._forward(tokens, slots, positions, wanted)
        finally:
            self._running = False
            self._busy.release()

    def step(self, tokens, slots, positions, wanted, temperatures=None, plan=None) -> Summary:
        return summarise(self.forward(tokens, slots, positions, wanted), temperatures)

    def _forward(self, tokens, slots, positions, wanted) -> np.ndarray:
        assert not self.closed
        for array in (tokens, slots, positions, wanted):
            assert array.dtype == np.int32 and array.ndim == 1
        assert 1 <= tokens.size <= self.max_batch and tokens.size == slots.size == positions.size
        assert wanted.size == 0 or (wanted.min() >= 0 and wanted.max() < tokens.size)
        assert tokens.min() >= 0 and tokens.max() < self.vocab
        self.batches.append(tokens.size)
        self.on_forward()
        if self.blocked is not None and len(self.batches) >= self.blocked:
            self.waiting.set()
            give_up = time.monotonic() + 10
            while not self._cancel:
                assert time.monotonic() < give_up, "nobody cancelled"
                time.sleep(0.0005)
        if self._cancel:
            raise Cancelled("cancelled")
        for token, slot, position in zip(tokens, slots, positions, strict=True):
            assert position == len(self.slots[slot]) < self.context
            self.slots[slot].append(int(token))
        return self.table[tokens[wanted]].copy()

    def cancel(self) -> None:
        if self._running:
            self._cancel = True

    def close(self) -> None:
        assert not self._running
        self.closed = True
