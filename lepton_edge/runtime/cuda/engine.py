"""The executor on an NVIDIA GPU: the CPU's, with pages, inputs and plans in the device's memory."""

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from ...checkpoint.store import Weight
from ...errors import RequestError
from ...kernels.cuda.layout import COUNTERS, MAX_HEAD, PARTS
from ...kernels.library import kernels
from ...models.spec import ModelSpec
from ...program import Program
from ...program.summary import Summary
from ..engine import MAX_SLOTS, Engine, Source
from ..inputs import Inputs
from ..pages import Pages
from ..pair import PairEngine
from ..plan import Plan
from ..profile import Profile
from .device import Device, open_device
from .inputs import Packed
from .lower import Sizes, query_tile
from .memory import Block, Constants
from .pages import CudaPages
from .plan import CudaPlan, away_ops

__all__ = ["CudaEngine", "CudaPairEngine"]

Array = NDArray[Any]
FIRST_SEEN = 256  # positions that a step is said to see, at least: then twice as many, and so on


class CudaEngine(Engine):
    """Runs a model on a GPU.  Ops that have no kernel there run on the CPU, in between."""

    max_batch = 2048  # tokens in a step: weights are read once for so many

    def __init__(self, program: Program, spec: ModelSpec, source: Source, weight: Callable[[str], Weight],
                 threads: int, isa: str, notify: Callable[[str], None] | None = None,
                 beside: Engine | None = None) -> None:  # fmt: skip
        """As of `Engine`; raises MachineError where there is no GPU, or too little of its memory."""
        self._device: Device = beside._device if isinstance(beside, CudaEngine) else open_device()
        self._device.use()
        self._constants: Constants = beside._constants if isinstance(beside, CudaEngine) else Constants(self._device)
        self._parts = Block(self._device, COUNTERS + PARTS * 16 * 4 * (MAX_HEAD + 2))
        self._device_ropes = {
            name: Block(self._device, program.context * rope.dim * 4) for name, rope in program.ropes.items()
        }
        self._ropes_sent, self._closed = 0, False
        self._summarised: CudaPlan | None = None  # whose step the last summary is of
        away = away_ops(program)
        if away and notify:
            notify(f"no CUDA kernel yet for {', '.join(away)}: these run on the CPU, and slow the rest down")
        super().__init__(program, spec, source, weight, threads, isa, notify, beside)

    @classmethod
    def _of_pairs(cls) -> type[Engine]:
        return CudaPairEngine

    @property
    def device(self) -> str:
        """The GPU's name."""
        return self._device.name

    # -- what differs from the CPU's ----------------------------------------------------------------------------------

    def _new_pages(self) -> Pages[Any]:
        return CudaPages(self._device, self.program.page_bytes, self.program.context, MAX_SLOTS)

    def _new_inputs(self, room: int) -> Inputs:
        return Packed(self._device, room, query_tile(self.program), self._parts.at)

    def _new_plan(self, program: Program, base: Plan | None = None, room: int = max_batch) -> Plan:
        self._device.use()
        away = away_ops(program)
        found = kernels(away, self.isa, self._notify) if away else {}
        ropes = {name: block.at for name, block in self._device_ropes.items()}
        constants = self._constants if base is None else Constants(self._device, self._constants)
        return CudaPlan(program, found, self._ropes, self.threads, base, room, self._device, constants, ropes,
                        self.isa, self._notify)  # fmt: skip

    def _fill_ropes(self, positions: int) -> None:
        super()._fill_ropes(positions)
        if self._ropes_sent < self._ropes_filled:
            for name, block in self._device_ropes.items():
                table = self._ropes[name]
                self._device.upload(block.at + self._ropes_sent * table.strides[0],
                                    table[self._ropes_sent : self._ropes_filled])  # fmt: skip
            self._ropes_sent = self._ropes_filled

    def _step(self, plan: Plan, rows: int, ids: Array, slots: Array, positions: Array, picks: Array) -> None:
        if self._closed:
            raise RequestError("this engine is closed, and its memory is given back; load the model again")
        self._device.use()
        super()._step(plan, rows, ids, slots, positions, picks)

    def _walk(self, plan: Plan, first: int, rows: int, tokens: int, threads: int, profile: Profile | None) -> bool:
        assert isinstance(plan, CudaPlan) and isinstance(self._inputs, Packed)
        if self._pool.cancelled:
            return True
        self._counts[3] = 0  # on the CPU no thread has activations of its own: the device has none
        tokens, wanted, tiles = (int(n) for n in self._counts[:3])
        seen = 1 + max(self._inputs.last_positions(tokens).values())
        counts = tokens, wanted, tiles
        whole = not self.spec.causal or isinstance(self, PairEngine)
        self._inputs.upload(counts, self._heats, self._pages.table, whole)
        sizes = Sizes(*counts, max(FIRST_SEEN, 1 << (seen - 1).bit_length()), self._device.processors)

        def away(low: int, high: int) -> bool:
            return Engine._walk(self, plan, low, high, tokens, threads, None)

        if plan.run(first, rows, self._inputs.header, sizes, away):
            return True
        if rows == len(plan.table) and self.spec.causal:
            plan.begin_summary(wanted)
            self._summarised = plan
        self._device.wait()
        return bool(self._pool.cancelled)

    def _summary(self, m: int) -> Summary:
        plan = self._summarised or self._plan
        assert isinstance(plan, CudaPlan)
        return plan.summary(m)

    def profile(self) -> Any:
        """RequestError: what is profiled is the CPU's executor."""
        raise RequestError("profiles are of the CPU's kernels; of a GPU's, use NVIDIA's tools (`ncu`), or device='cpu'")

    def close(self) -> None:
        """End the worker threads, and give the device's memory back; it cannot be used any more."""
        super().close()
        with self._lock:
            self._device.use()
            self._device.wait()
            self._free()

    def _free(self) -> None:
        assert isinstance(self._plan, CudaPlan) and isinstance(self._pages, CudaPages)
        assert isinstance(self._inputs, Packed)
        self._closed = True
        self._plan.free()
        self._pages.free()
        self._constants.free()
        self._inputs.free()
        for block in (self._parts, *self._device_ropes.values()):
            block.free()


class CudaPairEngine(PairEngine, CudaEngine):
    """Runs an encoder-decoder on a GPU."""

    _alone = CudaEngine

    def _free(self) -> None:
        assert isinstance(self.encoder, CudaEngine)
        self.encoder._free()
        super()._free()

