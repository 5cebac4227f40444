"""A program bound to a GPU's memory, and what of it stays with the CPU."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...kernels.cuda.layout import ROOM
from ...kernels.layout import GROUP, TOP, summary_sizes
from ...kernels.machine import instruction_set
from ...kernels.ops import COUNT, OPS, ROW, TOKENS
from ...program import Program
from ...program.summary import Summary
from ...program.table import Buffer
from ..plan import Plan
from .device import Device, Graph
from .logits import Lazy, Logits
from .lower import Call, Sizes, lower
from .memory import Block, Constants
from .records import from_device, to_device

__all__ = ["MAX_GRAPHS", "CudaPlan", "away_ops"]

Array = NDArray[Any]
MAX_GRAPHS = 64  # sizes of steps whose launches are kept as graphs
TILE = 64  # tokens that kernels take together, at most: so far activations may be read past the last token


def away_ops(program: Program) -> list[str]:
    """The ops of a program that stay with the CPU."""
    rows = [program.rows[i] for part in lower(program, True) if isinstance(part, range) for i in part]
    return list(dict.fromkeys(row.op for row in rows))


class CudaPlan(Plan):
    """A plan whose activations, weights and table are on the device; the CPU has its own for the rows that stay there.

    room_wanted: as `room`, of the wanted tokens.
    """

    def __init__(
        self, program: Program, kernels: Mapping[str, int], ropes: Mapping[str, Array], threads: int, base: Plan | None,
        room: int, device: Device, constants: Constants, device_ropes: Mapping[str, int], isa: str,
        notify: Callable[[str], None] | None,
    ) -> None:  # fmt: skip
        """`kernels`: the CPU's, of the rows that stay; `device_ropes`: addresses of the tables of angles."""
        super().__init__(program, {op: 0 for op in program.ops()} | dict(kernels), ropes, threads, base, room)
        self._constants = constants  # an adapter's live as long as its plan
        self._device, self._widths = device, instruction_set(isa).widths
        self.parts = lower(program, device.tensor_cores)
        device.load((name for part in self.parts if not isinstance(part, range) for call in part
                     for name in call.kernels), notify)  # fmt: skip
        self.room_wanted = -(-self.max_wanted // TILE) * TILE
        self.room = -(-room // TILE) * TILE
        self._blocks: dict[str, Block] = {}
        for name, buffer in program.buffers.items():
            if buffer.within is None:
                held = base._blocks.get(name) if isinstance(base, CudaPlan) else None
                same = base is not None and base.program.buffers.get(name) == buffer and base.room >= self.room
                nbytes = buffer.token_bytes * self._places(buffer)
                self._blocks[name] = held if held is not None and same else Block(device, nbytes)
        stays = {i for part in self.parts if isinstance(part, range) for i in part}
        here = [row for i, row in enumerate(program.rows) if i not in stays]
        named = {kind: _named(here, kind) for kind in "wp"}
        self._weights = constants.add({name: program.weights[name].data for name in named["w"]})
        self._params = constants.add({name: program.params[name] for name in named["p"] if name in program.params})
        self._params |= {name: at for name, at in device_ropes.items() if name in named["p"]}
        table = program.bind({op: 0 for op in program.ops()}, self._device_address)
        table[:, ROOM] = np.where(table[:, COUNT] == TOKENS, self.room, self.room_wanted)
        self._table = Block(device, table.nbytes)
        device.upload(self._table.at, table)
        device.wait()
        summary = {name: program.buffers[name] for name in ("top", "top_ids") if name in program.buffers}
        self._summary: dict[str, Any] = {
            name: device.pin(self.max_wanted * held.token_bytes)
            .view(np.int32 if held.integers else np.float32).reshape(-1, held.ld)
            for name, held in summary.items()
        }  # fmt: skip
        # By the sizes of steps: launches as graphs, and which sizes were seen once.
        self._graphs: dict[tuple[Any, ...], Graph] = {}
        self._seen: dict[tuple[Any, ...], None] = {}

    def _places(self, buffer: Buffer) -> int:
        return self.room if buffer.count == TOKENS else self.room_wanted

    def _device_address(self, kind: str, name: str) -> int:
        if kind == "a":
            held = self.program.buffers[name]
            return self._blocks[held.within.name if held.within else name].at + 4 * held.first
        return (self._weights if kind == "w" else self._params).get(name, 0)

    # -- running ----------------------------------------------------------------------------------------------------

    def run(self, first: int, stop: int, header: int, sizes: Sizes, away: Callable[[int, int], bool]) -> bool:
        """Start the rows first..stop; `away` runs rows on the CPU.  -> whether it was cancelled there."""
        for number, part in enumerate(self.parts):
            if isinstance(part, range):
                low, high = max(part.start, first), min(part.stop, stop)
                if low < high:
                    self._fetch(low, high, sizes)
                    if away(low, high):
                        return True
                    self._bring_back(low, high, sizes)
                continue
            calls = [call for call in part if first <= call.row < stop]
            if calls:
                self._start((number, first, stop), calls, header, sizes)
        return False

    def _start(self, part: tuple[int, int, int], calls: list[Call], header: int, sizes: Sizes) -> None:
        """Start launches: by a graph, from the second time on that a step has these sizes."""
        key = (part, header, sizes)
        graph = self._graphs.pop(key, None)
        if graph is None:
            launches = [one for call in calls for one in call.launch(self._table.at, header, 8 * ROW, sizes)]
            if key not in self._seen:
                self._seen[key] = None
                self._device.launch(launches)
                return
            del self._seen[key]
            graph = self._device.record(lambda: self._device.launch(launches))
            for held in (self._graphs, self._seen):
                while len(held) >= MAX_GRAPHS:
                    del held[next(iter(held))]
        self._graphs[key] = graph  # the last to be given up
        graph()

    def begin_summary(self, m: int) -> None:
        """Begin to fetch what the summary of m tokens needs at once."""
        for name, staged in self._summary.items():
            self._device.download(staged[:m], self._device_address("a", name))

    def summary(self, m: int) -> Summary:
        """What the last step said of m tokens, once the device has been waited for."""
        vocab = self.program.buffers["logits"].columns
        top, ids = self._summary["top"][:m], self._summary["top_ids"][:m, : min(TOP, vocab)]
        values, (chunks, size) = top[:, : ids.shape[1]], summary_sizes(vocab)
        logits: Any = Logits(lambda: self.view("logits", m), ids, values)
        peaks: Any = Lazy(lambda: self.view("peaks", m)[:, : size - 2 * chunks])
        shares = top[:, TOP + 2 : TOP + 2 + chunks]
        return Summary(logits, ids, values, top[:, TOP], top[:, TOP + 1], shares, peaks)

    def view(self, name: str, rows: int) -> Array:
        """As of `Plan`, a copy of what the device has."""
        held = self.program.buffers[name]
        found = np.empty((rows, held.ld), np.int32 if held.integers else np.float32)
        self._device.use()  # lazy logits may be asked for in another thread than the step
        self._device.download(found, self._device_address("a", name))
        self._device.wait()
        return found[:, : held.columns]

    # -- rows that stay with the CPU --------------------------------------------------------------------------------

    def _activations(self, first: int, stop: int) -> list[Buffer]:
        """The whole activations that rows name."""
        buffers = self.program.buffers
        named = [buffers[name] for name in _named(self.program.rows[first:stop], "a")]
        return list({(held.within or held).name: held.within or held for held in named}.values())

    def _fetch(self, first: int, stop: int, sizes: Sizes) -> None:
        """What rows of the CPU name, from the device."""
        held = [(buffer, self._staged(buffer, sizes)) for buffer in self._activations(first, stop)]
        for buffer, staged in held:
            self._device.download(staged, self._blocks[buffer.name].at)
        self._device.wait()
        for buffer, staged in held:
            if buffer.records:
                from_device(staged, self.buffers[buffer.name], *self._shape(buffer, sizes))

    def _bring_back(self, first: int, stop: int, sizes: Sizes) -> None:
        """To the device."""
        for buffer in self._activations(first, stop):
            staged = self._staged(buffer, sizes)
            if buffer.records:
                to_device(self.buffers[buffer.name], staged, *self._shape(buffer, sizes))
            self._device.upload(self._blocks[buffer.name].at, staged)
        self._device.wait()

    def _shape(self, buffer: Buffer, sizes: Sizes) -> tuple[int, int, int, tuple[int, ...]]:
        tokens = sizes.tokens if buffer.count == TOKENS else sizes.wanted
        return tokens, buffer.ld // GROUP, self._places(buffer), self._widths(tokens)

    def _staged(self, buffer: Buffer, sizes: Sizes) -> NDArray[np.uint8]:
        """Memory of the host for an activation as the device has it; floats are the same there."""
        tokens = sizes.tokens if buffer.count == TOKENS else sizes.wanted
        if not buffer.records:
            return self.buffers[buffer.name][: tokens * buffer.token_bytes]
        return np.empty(self._places(buffer) * buffer.token_bytes, np.uint8)

    def free(self) -> None:
        """Give the device's memory back."""
        self._graphs = {}
        for block in (*self._blocks.values(), self._table):
            block.free()


def _named(rows: list[Any], kind: str) -> list[str]:
    """The buffers ('a'), weights ('w') or parameters ('p') that rows name, each once."""
    found = [row.values.get(name) for row in rows for name, each in OPS[row.op].fields if each == kind]
    return list(dict.fromkeys(str(name) for name in found if name is not None))
