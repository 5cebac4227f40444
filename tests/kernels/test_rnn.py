"""LSTM and GRU against their definitions in NumPy: one token tightly, sequences bit by bit as single tokens.

So codes of int8 groups are made of the same floats on both sides, and errors cannot add up.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from kernels.harness import ISAS, Rig, U, pad

from lepton_edge.kernels.layout import rnn_scratch
from lepton_edge.kernels.machine import instruction_set
from lepton_edge.kernels.ops import PACKED, PLAIN, RECURRENT
from lepton_edge.program import recurrent
from lepton_edge.program.reference import quantize_groups
from lepton_edge.quant.formats import get_format

FORMATS = PLAIN + PACKED
SIZES = (1, 16, 33, 70)  # of a state: less than a group, one register, and groups that are not full
PLACE = 256  # bytes of other rows' states before the one that is tested
EXP = 2e-7  # the relative error of exp, at most
VECTORS = {"lstm": 2, "gru": 1}
each_isa = pytest.mark.parametrize("isa", ISAS)
each_cell = pytest.mark.parametrize("cell", RECURRENT)
each_format = pytest.mark.parametrize("format", FORMATS)


class Layer:
    """The parameters of a layer of n units, seeded."""

    def __init__(self, cell: str, format: str, n: int, bias: bool = True) -> None:
        rng, gates = np.random.default_rng([n, len(format), len(cell)]), RECURRENT[cell]
        self.cell, self.format, self.n, self.rows, self.rng = cell, format, n, gates * n, rng
        w = (rng.standard_normal((self.rows, n)) * 1.5 / np.sqrt(n)).astype(np.float32)
        self.data = get_format(format).pack(w)
        self.w = get_format(format).unpack(self.data, *w.shape).astype(np.float64)
        self.bias = (0.3 * rng.standard_normal(self.rows)).astype(np.float32) if bias else None
        self.size = VECTORS[cell] * pad(n)  # floats of a state

    def gates(self, tokens: int) -> np.ndarray:
        """What the inputs of some tokens say of the gates."""
        return self.rng.standard_normal((tokens, self.rows)).astype(np.float32)

    def states(self, count: int) -> np.ndarray:
        """float32 [count, vectors, n], such as tokens leave."""
        return np.tanh(self.rng.standard_normal((count, VECTORS[self.cell], self.n))).astype(np.float32)

    def run(self, isa: str, x: np.ndarray, slots: list[int], positions: list[int], states: np.ndarray, *,
            back: bool = False, threads: int = 1) -> np.ndarray:  # fmt: skip
        """y float32 [T, n] of the kernel; states: uint8 [slots, PLACE + bytes of one], which it changes."""
        room = rnn_scratch(RECURRENT[self.cell], self.n)
        rig = Rig(isa, len(slots), slots=slots, positions=positions, scratch_bytes=room)
        held = [rig.memory.array(state) for state in states]
        rig.states = np.array([state.ctypes.data for state in held])
        gates, wide = rig.memory.padded(x), rig.memory.padded(np.full((len(slots), self.n + 20), 7, np.float32))
        y = wide[:, 3:]  # beside it may be another direction's
        bias = None if self.bias is None else rig.memory.array(np.pad(self.bias, (0, -self.rows % 32)))
        packing = {}
        if self.format in PACKED:
            blocks = pad(self.rows, 16) // 16
            packing = dict(blocks=blocks, groups=pad(self.n) // 32, block_bytes=self.data.size // blocks)
        rig.row(f"{self.cell}_{self.format}", x=gates, ldx=gates.shape[1], w=rig.memory.array(self.data), bias=bias,
                y=y, ldy=wide.shape[1], n=self.n, back=int(back), state=PLACE, **packing).run(threads)  # fmt: skip
        states[:] = held
        assert (states[:, :PLACE] == 0xFF).all(), "wrote into another row's states"
        assert (wide[:, :3] == 7).all() and (wide[:, 3 + self.n : self.n + 20] == 7).all(), "wrote beside its units"
        assert np.array_equal(gates[:, : self.rows], x, equal_nan=True)
        return y[:, : self.n].copy()

    def memory(self, states: np.ndarray) -> np.ndarray:
        """States [count, vectors, n] as the kernel keeps them."""
        held = np.full((len(states), PLACE + 4 * self.size), 0xFF, np.uint8)
        padded = np.pad(states, ((0, 0), (0, 0), (0, pad(self.n) - self.n)))
        held[:, PLACE:] = padded.reshape(len(states), -1).view(np.uint8)
        return held

    def vectors(self, memory: np.ndarray) -> np.ndarray:
        """The inverse; what lies behind a state must be zero."""
        found = np.ascontiguousarray(memory[:, PLACE:]).view(np.float32).reshape(len(memory), -1, pad(self.n))
        assert not found[:, :, self.n :].any()
        return found[:, :, : self.n]

    def expected(self, x: np.ndarray, states: np.ndarray, back: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """y [slots, n] and the states after one more token of each slot, by the definition."""
        run = Stand(self, x.astype(np.float64), states.astype(np.float64))
        row = dict(x="x", w="w", bias=None if self.bias is None else "bias", y="y", n=self.n, back=int(back), state=0)
        recurrent.OPS[f"{self.cell}_{self.format}"](run, row)  # type: ignore[arg-type]
        return run.y, np.array([run.states[slot, 0][2] for slot in range(len(states))])


class Stand:
    """What the definitions see of the reference executor: a second token of each sequence."""

    def __init__(self, layer: Layer, x: np.ndarray, states: np.ndarray) -> None:
        self.layer, self.x, self.y = layer, x, np.empty(0)
        self.batch = (None, np.arange(len(x)), np.ones(len(x), int), None)
        self.lengths = dict.fromkeys(range(len(x)), 1)
        self.states = {(slot, 0): {1: state} for slot, state in enumerate(states)}
        self.program = SimpleNamespace(params={})

    def buffer(self, name: str) -> np.ndarray:
        return {"x": self.x, "y": self.y}[name]

    def weight(self, name: str) -> np.ndarray:
        return self.layer.w

    def as_read(self, name: str, x: np.ndarray) -> np.ndarray:
        return quantize_groups(x) if self.layer.format in PACKED else x

    def param(self, name: str, size: int) -> np.ndarray:
        assert self.layer.bias is not None
        return self.layer.bias[:size].astype(np.float64)

    def put(self, name: str, value: np.ndarray) -> None:
        self.y = value

    def put_records(self, name: str | None, value: np.ndarray) -> None:
        assert name is None


@each_isa
@each_cell
@each_format
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("bias", [True, False])
def test_one_token(isa: str, cell: str, format: str, n: int, bias: bool) -> None:
    """A gate is a sum of n products, x and a bias, each rounded; sigmoid and tanh change by that much at most, and by
    EXP and 6 roundings of their own.  An LSTM multiplies two such numbers and adds two such products."""
    layer = Layer(cell, format, n, bias)
    states, x = layer.states(3), layer.gates(3)
    memory = layer.memory(states)
    found = layer.run(isa, x, [0, 1, 2], [1, 1, 1], memory)
    expected, after = layer.expected(x, states)
    h = np.abs(states[:, 0]).astype(np.float64)
    size = (h @ np.abs(layer.w).T + np.abs(x) + (0 if layer.bias is None else np.abs(layer.bias))).max()
    gate = (n + 4) * U * size + EXP + 6 * U
    if format in PACKED:
        gate += 4 * U * size  # scales of activations
    if format == "bf16" and instruction_set(isa).bf16_pairs:
        gate += 2.0**-9 * (h @ np.abs(layer.w).T).max()
    assert np.abs(found - expected).max() <= 4 * gate
    assert np.abs(layer.vectors(memory) - after).max() <= 4 * gate
    assert np.array_equal(layer.vectors(memory)[:, 0], found)


# Two batches: slots and positions of their tokens.
BATCHES = (
    ([1, 0, 1, 2, 0, 1, 1, 0, 1], [0, 0, 1, 0, 1, 2, 3, 2, 4]),
    ([2, 2, 0, 1, 2], [1, 2, 3, 5, 3]),
)


def one_by_one(layer: Layer, isa: str, x: np.ndarray) -> np.ndarray:
    """y of a sequence of tokens, from steps of one token."""
    states, rows = layer.memory(np.zeros((1, VECTORS[layer.cell], layer.n), np.float32)), []
    for t in range(len(x)):
        rows.append(layer.run(isa, x[t : t + 1], [0], [t + 1], states))  # from position 1 on it begins with `states`
    return np.concatenate(rows)


@each_isa
@each_cell
@each_format
@pytest.mark.parametrize("threads", [1, 3])
def test_sequences(isa: str, cell: str, format: str, threads: int) -> None:
    """Interleaved, and in two batches, of which the second goes on; a state's memory may hold anything before."""
    layer = Layer(cell, format, 33)
    x = layer.gates(sum(len(slots) for slots, _ in BATCHES))
    states, start, found = np.full((3, PLACE + 4 * layer.size), 0xFF, np.uint8), 0, []
    for slots, positions in BATCHES:
        found.append(layer.run(isa, x[start : start + len(slots)], slots, positions, states, threads=threads))
        start += len(slots)
    every = np.array([slot for slots, _ in BATCHES for slot in slots])
    for slot in range(3):
        mine = every == slot
        assert np.array_equal(np.concatenate(found)[mine], one_by_one(layer, isa, x[mine])), slot


@each_isa
@each_cell
@pytest.mark.parametrize("format", ["f32", "q8"])
@pytest.mark.parametrize("threads", [1, 3])
def test_backwards(isa: str, cell: str, format: str, threads: int) -> None:
    """Whole sequences from their ends on: what the other direction gives of them reversed."""
    layer, lengths = Layer(cell, format, 33), (5, 1, 3)
    x = layer.gates(sum(lengths))
    slots = np.repeat(np.arange(3), lengths).tolist()
    positions = [p for n in lengths for p in range(n)]
    states = np.full((3, PLACE + 4 * layer.size), 0xFF, np.uint8)
    found = layer.run(isa, x, slots, positions, states, back=True, threads=threads)
    for slot, stop in enumerate(np.cumsum(lengths)):
        here = slice(stop - lengths[slot], stop)
        assert np.array_equal(found[here], one_by_one(layer, isa, x[here][::-1])[::-1])
        assert np.array_equal(layer.vectors(states)[slot, 0], found[here][0])


@each_isa
@each_cell
@each_format
def test_nan_stays_in_its_sequence(isa: str, cell: str, format: str) -> None:
    layer, (slots, positions) = Layer(cell, format, 33), BATCHES[0]
    x = layer.gates(len(slots))
    x[4] = np.nan  # token 1 of sequence 0
    found = layer.run(isa, x, slots, positions, np.zeros((3, PLACE + 4 * layer.size), np.uint8) | 0xFF)
    hit = [t for t, slot in enumerate(slots) if slot == 0 and t >= 4]
    assert np.isnan(found[hit]).any(axis=1).all() and np.isfinite(np.delete(found, hit, axis=0)).all()


@each_isa
@pytest.mark.parametrize(("n", "split"), [(2, 1), (66, 33), (64, 32), (40, 7)])
def test_ends(isa: str, n: int, split: int) -> None:
    """Copies, so bit by bit: of sequences of 5, 1 and 3 tokens."""
    x = np.random.default_rng(n).standard_normal((9, n)).astype(np.float32)
    rig = Rig(isa, 9, slots=[0] * 5 + [1] + [2] * 3, positions=[0, 1, 2, 3, 4, 0, 0, 1, 2], wanted=[0, 5, 6])
    y, rows = rig.memory.padded(np.full((3, n), 7, np.float32)), rig.memory.padded(x)
    rig.row("ends", count=1, x=rows, ldx=rows.shape[1], y=y, ldy=y.shape[1], n=n, split=split).run(2)
    expected = np.concatenate([x[[4, 5, 8], :split], x[[0, 5, 6], split:]], axis=1)
    assert np.array_equal(y[:, :n], expected) and not y[:, n:].any()
