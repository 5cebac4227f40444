"""The reference executor: what every op of a program means, in NumPy.

It is written from the ops' definitions, and computes in float64 wherever they do not round, so it is what the
compiled kernels are tested against; it is also a debugger, for it shows any buffer after any row.  It is slow.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from ..kernels.layout import GROUP
from ..kernels.ops import CACHES, PACKED, PLAIN
from ..models.spec import DecoderSpec
from . import recurrent, summary
from .batch import Batch, Ints, read_batch
from .table import Program, Row, pad

__all__ = ["OPS", "Reference", "quantize_groups", "to_cache"]

Array = NDArray[np.float64]
LARGEST_F16 = 65504.0


class Reference:
    """Runs a program a batch at a time, as `runtime.Engine` does.

    After a run, `buffer(name)` is that activation of the batch: float64 [T, columns], or [M, columns] for what only the
    wanted tokens have, without the padding.  The buffers `records` and `last_records` hold the values that the int8
    groups stand for.
    """

    def __init__(self, program: Program, spec: DecoderSpec) -> None:
        self.program, self.spec = program, spec
        self.lengths: dict[int, int] = {}
        # Keys and values [positions, G, D] of a sequence, by slot and the row's `layer`.
        self.cache: dict[tuple[int, int], tuple[Array, Array]] = {}
        # The states of a sequence at its start and its end in the last run, by slot and the row's `state`.
        self.states: dict[tuple[int, int], dict[int, Array]] = {}
        self.buffers: dict[str, Array] = {}
        self._weights: dict[str, Array] = {}
        self.heats: Array | None = None  # [M], 1 / temperature of the wanted tokens; None: 1
        self.batch: Batch = read_batch([], [], [], [], vocab=program.vocab, context=program.context, lengths={})

    # -- sequences ----------------------------------------------------------------------------------------------

    def open(self) -> int:
        """A new, empty sequence; -> its slot."""
        slot = next(i for i in range(len(self.lengths) + 1) if i not in self.lengths)
        self.lengths[slot] = 0
        return slot

    def close_slot(self, slot: int) -> None:
        """Forget a sequence."""
        self.length(slot)
        del self.lengths[slot]
        self.cache = {key: held for key, held in self.cache.items() if key[0] != slot}
        self.states = {key: held for key, held in self.states.items() if key[0] != slot}

    def length(self, slot: int) -> int:
        """Positions of a sequence that are in the cache; RequestError for a slot that is not open."""
        if slot not in self.lengths:
            raise RequestError(f"sequence {slot} is not open; open are {sorted(self.lengths)}")
        return self.lengths[slot]

    def truncate(self, slot: int, length: int) -> None:
        """Forget a sequence's positions from `length` on."""
        if not 0 <= length <= self.length(slot):
            raise RequestError(f"cannot truncate to {length}: the sequence has {self.lengths[slot]} positions")
        if self.program.state_bytes and length not in (0, self.lengths[slot]):
            raise RequestError(f"cannot truncate to {length}: the model keeps a state")
        self.lengths[slot] = length

    # -- steps --------------------------------------------------------------------------------------------------

    def forward(self, tokens: Ints, slots: Ints, positions: Ints, wanted: Ints) -> NDArray[np.float32]:
        """Run a batch, with the arguments and errors of `Engine.forward`; -> float32 [M, V]."""
        self.run_until(self.program.logits_rows, tokens, slots, positions, wanted)
        for slot in self.batch[1].tolist():
            self.lengths[slot] += 1
        return self.buffer("logits").astype(np.float32)

    def run_until(self, stop: int, tokens: Ints, slots: Ints, positions: Ints, wanted: Ints) -> None:
        """Run rows 0 to `stop - 1` on a batch.  The sequences do not grow, so another run may follow."""
        program = self.program
        self.batch = read_batch(
            tokens, slots, positions, wanted, vocab=program.vocab, context=program.context, lengths=self.lengths
        )
        self.buffers = {}
        for row in program.rows[:stop]:
            self.run_row(row)

    def run_row(self, row: Row) -> None:
        """Run one row on the buffers and the batch as they are."""
        OPS[row.op](self, row.values)

    def buffer(self, name: str) -> Array:
        """An activation as the rows so far have left it."""
        return self.buffers[name]

    # -- operands -----------------------------------------------------------------------------------------------

    def weight(self, name: str) -> Array:
        """A weight, float64 [N, K]."""
        if name not in self._weights:
            self._weights[name] = self.program.weights[name].to_f32().astype(np.float64)
        return self._weights[name]

    def param(self, name: str, size: int) -> Array:
        """The first `size` numbers of a parameter; the rest is padding."""
        return self.program.params[name][:size].astype(np.float64)

    def heat(self) -> Array:
        """1 / temperature of the wanted tokens."""
        return np.ones(len(self.batch[3])) if self.heats is None else self.heats

    def put(self, name: str, value: Array) -> None:
        self.buffers[name] = value

    def put_records(self, name: str | None, value: Array) -> None:
        """Keep `value` as int8 groups too, where the row has a buffer for them."""
        if name is not None:
            self.buffers[name] = quantize_groups(value)


# -- the ops: each reads its row's values by name -----------------------------------------------------------------

Values = Mapping[str, Any]


def embed(run: Reference, row: Values) -> None:
    """y[t] = row id[t] of w."""
    run.put(row["y"], run.weight(row["w"])[run.batch[0]])


def rms_norm(run: Reference, row: Values) -> None:
    """y = x / sqrt(mean(x^2) + eps) * weight (arXiv:1910.07467)."""
    x = run.buffer(row["x"])
    mean = (x * x).mean(axis=1, keepdims=True)
    y = x / np.sqrt(mean + row["eps"]) * run.param(row["weight"], row["n"])
    run.put(row["y"], y)
    run.put_records(row["records"], y)


def quantize(run: Reference, row: Values) -> None:
    """records = x as int8 groups."""
    run.put_records(row["records"], run.buffer(row["x"]))


def matmul(run: Reference, row: Values) -> None:
    """y = x w^T, plus the bias, plus what y held where `accumulate` is set."""
    w = run.weight(row["w"])
    y = run.buffer(row["x"])[:, : w.shape[1]] @ w.T
    if row["bias"] is not None:
        y = y + run.param(row["bias"], len(w))
    if row["accumulate"]:
        y = y + run.buffer(row["y"])
    run.put(row["y"], y)


def swiglu(run: Reference, row: Values) -> None:
    """y = gate * sigmoid(gate) * up (arXiv:2002.05202)."""
    gate, up = run.buffer(row["gate"]), run.buffer(row["up"])
    y = gate * sigmoid(gate) * up
    run.put(row["y"], y)
    run.put_records(row["records"], y)


def gated(run: Reference, row: Values) -> None:
    """Two products of x, and their swiglu."""
    for w, y, bias in (("w", "gate", "bias"), ("up_w", "up", "up_bias")):
        matmul(run, dict(x=row["x"], w=row[w], y=row[y], bias=row[bias], accumulate=0))
    swiglu(run, dict(gate=row["gate"], up=row["up"], y=row["gate"], records=row["records"]))


def gather(run: Reference, row: Values) -> None:
    """y[m] = x[wanted[m]]."""
    run.put(row["y"], run.buffer(row["x"])[run.batch[3]])


def block_peaks(run: Reference, row: Values) -> None:
    """y[m] = maxima of the blocks of x[m], and two sums for each of its chunks."""
    run.put(row["y"], summary.block_peaks(run.buffer(row["x"]), run.heat()))


def top(run: Reference, row: Values) -> None:
    """y[m], ids[m] = the likeliest of x[m]; y[m] ends with the two sums over all of x[m], the second by chunks."""
    ids, values = summary.top(run.buffer(row["x"]), run.buffer(row["peaks"]), run.heat())
    run.put(row["ids"], ids)
    run.put(row["y"], values)


def rope(run: Reference, row: Values) -> None:
    """Turn q and k by their positions (arXiv:2104.09864); q stays where it is, k and v go into the cache."""
    _, slots, positions, _ = run.batch
    if not len(slots):
        return
    d, dim = row["head_dim"], row["rope_dim"]
    tables = run.program.ropes[row["table"]].tables(0, int(positions.max()) + 1)
    cos, sin = (table.astype(np.float64)[positions] for table in tables)
    q, k, v = (run.buffer(row[name]) for name in "qkv")
    run.put(row["q"], rotate(q.reshape(len(q), -1, d), dim, cos, sin).reshape(q.shape))
    dtype = run.program.kv_dtype
    keys = to_cache(rotate(k.reshape(len(k), -1, d), dim, cos, sin), dtype)
    values = to_cache(v.reshape(len(v), -1, d), dtype)
    for slot in np.unique(slots).tolist():
        here, start = slots == slot, run.lengths[slot]
        none = np.empty((0, *keys.shape[1:]))
        old_keys, old_values = run.cache.get((slot, row["layer"]), (none, none))
        run.cache[slot, row["layer"]] = (
            np.concatenate([old_keys[:start], keys[here]]),
            np.concatenate([old_values[:start], values[here]]),
        )


def attention(run: Reference, row: Values) -> None:
    """Each token's query heads against the positions that it sees; neighbouring query heads share a key head."""
    _, slots, positions, _ = run.batch
    d, kv_heads = row["head_dim"], row["kv_heads"]
    q: Array = run.buffer(row["q"]).reshape(len(slots), kv_heads, -1, d)
    if run.program.kv_dtype == "q8":  # keys in int8 meet queries in int8
        q = quantize_groups(q.reshape(-1, d)).reshape(q.shape)
    y = np.zeros_like(q)
    for t, (slot, position) in enumerate(zip(slots.tolist(), positions.tolist(), strict=True)):
        first = max(0, position + 1 - row["window"]) if row["window"] else 0
        keys, values = (held[first : position + 1] for held in run.cache[slot, row["layer"]])
        scores = np.einsum("ghd,pgd->ghp", q[t], keys) * row["scale"]
        y[t] = np.einsum("ghp,pgd->ghd", softmax(scores), values)
    run.put(row["y"], y.reshape(len(slots), row["heads"] * d))
    run.put_records(row["records"], run.buffer(row["y"]))


OPS: dict[str, Callable[[Reference, Values], None]] = {
    "rms_norm": rms_norm,
    "quantize": quantize,
    "swiglu": swiglu,
    "gather": gather,
    "block_peaks": block_peaks,
    "top": top,
    **{f"embed_{name}": embed for name in PLAIN + PACKED},
    **{f"matmul_{name}": matmul for name in PLAIN + PACKED},
    **{f"gated_{name}": gated for name in PACKED},
    **{f"rope_{name}": rope for name in CACHES},
    **{f"attention_{name}": attention for name in CACHES},
    **recurrent.OPS,
}


# -- their parts ----------------------------------------------------------------------------------------------------


def quantize_groups(x: Array) -> Array:
    """x [T, n] through int8 groups of 32: codes round(127 x / max|x|), ties to even, times the float32 max|x| / 127."""
    rows, columns = x.shape
    groups = np.pad(x.astype(np.float32), ((0, 0), (0, -columns % GROUP))).reshape(rows, pad(columns) // GROUP, GROUP)
    top = np.abs(groups).max(axis=2, keepdims=True)
    codes = np.rint(groups.astype(np.float64) * 127 / np.where(top > 0, top, 1))
    scale = (top.astype(np.float64) / 127).astype(np.float32)
    return (codes * scale).reshape(rows, pad(columns))[:, :columns]


def to_cache(x: Array, dtype: str) -> Array:
    """x [T, G, D] rounded as the cache holds it; what is too large for f16 becomes its largest number.

    q8: groups of 32 numbers of a head, codes round(x / scale) of at most 127 times the scale, max|x| / 127 as f16.
    """
    if dtype == "q8":
        wide = np.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % GROUP)))
        groups = wide.reshape(*x.shape[:2], -1, GROUP)
        scale = to_cache(np.abs(groups).max(axis=3, keepdims=True) / 127, "f16")
        codes = np.clip(np.rint(groups / np.where(scale > 0, scale, np.inf)), -127, 127)
        return np.asarray((codes * scale).reshape(wide.shape)[:, :, : x.shape[2]])
    if dtype == "f16":
        return np.clip(x, -LARGEST_F16, LARGEST_F16).astype(np.float16).astype(np.float64)
    return x.astype(np.float32).astype(np.float64)


def rotate(x: Array, dim: int, cos: Array, sin: Array) -> Array:
    """The first `dim` numbers of each head [T, H, D] turned in pairs (i, i + dim/2); cos and sin are [T, dim/2]."""
    a, b, rest = np.split(x, [dim // 2, dim], axis=2)
    cos, sin = cos[:, None], sin[:, None]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=2)


def softmax(x: Array) -> Array:
    """Along the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    total: Array = e / e.sum(axis=-1, keepdims=True)
    return total


def sigmoid(x: Array) -> Array:
    with np.errstate(over="ignore"):
        result: Array = 1 / (1 + np.exp(-x))
    return result
