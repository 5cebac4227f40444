"""The reference executor: what every op of a program means, in NumPy.

It is written from the ops' definitions, and computes in float64 wherever they do not round, so it is what the
compiled kernels are tested against; it is also a debugger, for it shows any buffer after any row.  It is slow.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from ..kernels.layout import EDGE, GROUP
from ..kernels.ops import ACTIVATIONS, CACHES, CAUSAL, MEMORY, PACKED, PLAIN
from ..models.spec import ModelSpec
from ..quant.formats import get_format
from . import mixture, recurrent, summary
from .batch import Batch, Ints, read_batch
from .table import Program, Row, pad

__all__ = ["OPS", "Reference", "attended", "quantize_groups", "to_cache"]

Array = NDArray[np.float64]
LARGEST_F16 = 65504.0


class Reference:
    """Runs a program a batch at a time, as `runtime.Engine` does.

    After a run, `buffer(name)` is that activation of the batch: float64 [T, columns], or [M, columns] for what only the
    wanted tokens have, without the padding.  The buffers `records` and `last_records` hold the values that the int8
    groups stand for.
    """

    def __init__(self, program: Program, spec: ModelSpec) -> None:
        self.program, self.spec = program, spec
        self.lengths: dict[int, int] = {}
        # Keys and values [positions, G, D] of a sequence, by slot and the row's `layer`.
        self.cache: dict[tuple[int, int], tuple[Array, Array]] = {}
        # The states of a sequence at its start and its end in the last run, by slot and the row's `state`.
        self.states: dict[tuple[int, int], dict[int, Array]] = {}
        self.buffers: dict[str, Array] = {}
        self._weights: dict[str, Array] = {}
        self.segments: NDArray[np.int64] | None = None  # of the tokens of the batch; None: 0
        self.memories: dict[int, int] = {}  # slot -> the slot of what it attends to beside itself
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
        self.memories.pop(slot, None)
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

    def encode(self, sequence: Ints, segments: Ints | None = None, hidden: bool = False) -> NDArray[np.float32]:
        """What an encoder gives of one sequence, with the results of `Engine.encode`."""
        slot, n = self.open(), len(sequence)
        self.segments = None if segments is None else np.asarray(segments, np.int64)
        head = self.spec.head
        wanted = range(n) if head is None or head.pool == "each" else [n - 1 if head.pool == "last" else 0]
        stop = self.program.state_rows if hidden else self.program.logits_rows
        self.run_until(stop, sequence, [slot] * n, range(n), wanted)
        self.segments = None
        self.close_slot(slot)
        if hidden:
            return self.buffer("x").astype(np.float32)
        found = self.buffer("logits").astype(np.float32)
        return found if head is None or head.pool == "each" else found[0]

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
        held = self.program.buffers.get(name)
        if held is not None and held.within is not None:
            return self.buffers[held.within.name][:, held.first : held.first + held.columns]
        return self.buffers[name]

    # -- operands -----------------------------------------------------------------------------------------------

    def weight(self, name: str) -> Array:
        """A weight, float64 [N, K]."""
        if name not in self._weights:
            self._weights[name] = self.program.weights[name].to_f32().astype(np.float64)
        return self._weights[name]

    def as_read(self, name: str, x: Array) -> Array:
        """x [T, K] as a product with a weight reads it: as int8 groups where that is packed."""
        return quantize_groups(x) if get_format(self.program.weights[name].format).packed else x

    def param(self, name: str, size: int) -> Array:
        """The first `size` numbers of a parameter; the rest is padding."""
        return self.program.params[name][:size].astype(np.float64)

    def seen(self, row: "Values", slot: int) -> tuple[Array, Array]:
        """The keys and values that a sequence attends to."""
        return self.cache[self.memories[slot] if row.get("sight") == MEMORY else slot, row["layer"]]

    def heat(self) -> Array:
        """1 / temperature of the wanted tokens."""
        return np.ones(len(self.batch[3])) if self.heats is None else self.heats

    def put(self, name: str, value: Array) -> None:
        held = self.program.buffers.get(name)
        if held is not None and held.within is not None:
            whole = self.buffers.setdefault(held.within.name, np.zeros((len(value), held.within.columns)))
            whole[:, held.first : held.first + value.shape[1]] = value
        else:
            self.buffers[name] = value

    def put_records(self, name: str | None, value: Array) -> None:
        """Keep `value` as int8 groups too, where the row has a buffer for them."""
        if name is not None:
            self.buffers[name] = quantize_groups(value)


# -- the ops: each reads its row's values by name -----------------------------------------------------------------

Values = Mapping[str, Any]


def embed(run: Reference, row: Values) -> None:
    """y[t] (+)= scale * row id[t] of w, or that of its position or segment, + offset."""
    ids, _, positions, _ = run.batch
    segments = np.zeros_like(ids) if run.segments is None else run.segments
    rows = (ids, positions, segments)[row["by"]] + row["offset"]
    y = run.weight(row["w"])[rows] * row["scale"]
    run.put(row["y"], run.buffer(row["y"]) + y if row["accumulate"] else y)


def rms_norm(run: Reference, row: Values) -> None:
    """y (+)= x / sqrt(mean(x^2) + eps) * weight + bias (arXiv:1910.07467)."""
    _norm(run, row, run.buffer(row["x"]))


def layer_norm(run: Reference, row: Values) -> None:
    """The same of x less its mean (arXiv:1607.06450)."""
    x = run.buffer(row["x"])
    _norm(run, row, x - x.mean(axis=1, keepdims=True))


def _norm(run: Reference, row: Values, x: Array) -> None:
    y = root_mean_square(x, row["eps"]) * run.param(row["weight"], row["n"])
    if row["bias"] is not None:
        y = y + run.param(row["bias"], row["n"])
    if row["accumulate"]:
        y = y + run.buffer(row["y"])
    run.put(row["y"], y)
    run.put_records(row["records"], y)


def quantize(run: Reference, row: Values) -> None:
    """records = x as int8 groups."""
    run.put_records(row["records"], run.buffer(row["x"]))


def matmul(run: Reference, row: Values) -> None:
    """y = x w^T, plus the bias, plus what y held where `accumulate` is set."""
    x, bias = run.buffer(row["x"]), row["bias"]
    if row.get("order"):
        y = _of_experts(run, row, x)
    else:
        w = run.weight(row["w"])
        y = x[:, : w.shape[1]] @ w.T + (run.param(bias, len(w)) if bias is not None else 0)
    if row["accumulate"]:
        y = y + run.buffer(row["y"])
    run.put(row["y"], y)


def _of_experts(run: Reference, row: Values, x: Array) -> Array:
    """x [pairs, K] in the order of the experts, each times the weight of its own, plus its bias."""
    table, n = run.program.tables[row["w"]], run.program.weights_of(row["w"])[0].shape[0]
    y = np.zeros((len(x), n))
    for e in np.unique(run.buffer(row["order"])[:, 1]).astype(int):
        here = run.buffer(row["order"])[:, 1] == e
        w = run.weight(table[e])
        y[here] = x[here][:, : w.shape[1]] @ w.T
        if row["bias"] is not None:
            y[here] += run.program.params[row["bias"]].reshape(len(table), -1)[e, :n]
    return y


def route(run: Reference, row: Values) -> None:
    """Which experts each token goes to, with which shares, and the pairs in the order of the experts."""
    chosen, shares = mixture.choose(run.buffer(row["x"]), row["top_k"], bool(row["normalise"]))
    places, order = mixture.sort_pairs(chosen)
    run.put(row["shares"], shares)
    run.put(row["places"], places.astype(np.float64))
    run.put(row["order"], order.astype(np.float64))


def dispatch(run: Reference, row: Values) -> None:
    """y[place] = x[token of the pair there], or x[place]."""
    x, pairs = run.buffer(row["x"]), run.buffer(row["order"])[:, 0].astype(int)
    y = x if row["sorted"] else x[pairs // row["top_k"]]
    if row["y"] is not None:
        run.put(row["y"], y)
    run.put_records(row["records"], y)


def combine(run: Reference, row: Values) -> None:
    """y[t] (+)= the sum of share * x[place] over its pairs (+ sigmoid(shared_gate[t]) * shared[t])."""
    shares, places = run.buffer(row["shares"]), run.buffer(row["places"]).astype(int)
    y = np.einsum("tk,tkn->tn", shares, run.buffer(row["x"])[places])
    if row["shared"] is not None:
        y = y + sigmoid(run.buffer(row["shared_gate"])) * run.buffer(row["shared"])
    run.put(row["y"], run.buffer(row["y"]) + y if row["accumulate"] else y)


def activate(run: Reference, row: Values) -> None:
    """y = activation(gate) (* up) (arXiv:2002.05202); the clamped one multiplies with up + 1, up within +-7."""
    kind = ACTIVATIONS[row["activation"]]
    y = ACTIVATION[kind](run.buffer(row["gate"]))
    if row["up"] is not None:
        up = run.buffer(row["up"])
        y = y * (np.clip(up, -7, 7) + 1 if kind == "clamped_swiglu" else up)
    run.put(row["y"], y)
    run.put_records(row["records"], y)


def gated(run: Reference, row: Values) -> None:
    """One product of x or two, and their activation."""
    for w, y, bias in (("w", "gate", "bias"), ("up_w", "up", "up_bias")):
        if row[w] is not None:
            matmul(run, dict(x=row["x"], w=row[w], y=row[y], bias=row[bias], accumulate=0, order=row.get("order")))
    rest = {name: row[name] for name in ("gate", "up", "activation", "records")}
    activate(run, dict(y=row["gate"], **rest))


def limit(run: Reference, row: Values) -> None:
    """x within +-limit, or limit * tanh(x / limit)."""
    x, top = run.buffer(row["x"]), row["limit"]
    run.put(row["x"], np.tanh(x / top) * top if row["soft"] else np.clip(x, -top, top))


def grow(run: Reference, row: Values) -> None:
    """x[t] = x[t] * table[position[t] // every]."""
    by = run.program.params[row["table"]].astype(np.float64)[run.batch[2] // row["every"]]
    run.buffer(row["x"])[:, : row["n"]] *= by[:, None]


def gather(run: Reference, row: Values) -> None:
    """y[m] = x[wanted[m]]."""
    run.put(row["y"], run.buffer(row["x"])[run.batch[3]])


def average(run: Reference, row: Values) -> None:
    """y[m] = the mean of x over the sequence that begins with token wanted[m]."""
    _, slots, _, wanted = run.batch
    run.put(row["y"], np.array([run.buffer(row["x"])[slots == slots[first]].mean(axis=0) for first in wanted]))


def block_peaks(run: Reference, row: Values) -> None:
    """y[m] = maxima of the blocks of x[m], and two sums for each of its chunks."""
    run.put(row["y"], summary.block_peaks(run.buffer(row["x"]), run.heat()))


def top(run: Reference, row: Values) -> None:
    """y[m], ids[m] = the likeliest of x[m]; y[m] ends with the two sums over all of x[m], the second by chunks."""
    ids, values = summary.top(run.buffer(row["x"]), run.buffer(row["peaks"]), run.heat())
    run.put(row["ids"], ids)
    run.put(row["y"], values)


def rope(run: Reference, row: Values) -> None:
    """Norm heads of q and k, and turn them by their positions (arXiv:2104.09864); q stays where it is, k and v go into
    the cache."""
    slots = run.batch[1]
    if not len(slots):
        return
    q, k, v = (heads_of(run, row, name) for name in "qkv")
    q[:] = turned(run, row, "q_norm", q)
    dtype = run.program.kv_dtype
    keys, values = to_cache(turned(run, row, "k_norm", k)[:, :, 0], dtype), to_cache(v[:, :, 0], dtype)
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
    slots, (kv_heads, heads) = run.batch[1], (row["kv_heads"], row["heads"])
    y = np.zeros((len(slots), kv_heads, heads // kv_heads, row["head_dim"]))
    for t, (first, shares) in enumerate(attended(run, row)):
        values = run.seen(row, int(slots[t]))[1][first : first + shares.shape[2]]
        y[t] = np.einsum("ghp,pgd->ghd", shares, values)
    run.put(row["y"], y.reshape(len(slots), heads * row["head_dim"]))
    run.put_records(row["records"], run.buffer(row["y"]))


def attended(run: Reference, row: Values) -> Iterator[tuple[int, Array]]:
    """For each token the first position that it sees, and the heads' shares [G, heads / G, n] of n from there on."""
    _, slots, positions, _ = run.batch
    kv_heads, d, sight = row["kv_heads"], row["head_dim"], row.get("sight", CAUSAL)
    q = heads_of(run, row, "q")
    if run.program.kv_dtype == "q8":  # keys in int8 meet queries in int8
        q = quantize_groups(q.reshape(-1, d)).reshape(q.shape)
    for t, (slot, position) in enumerate(zip(slots.tolist(), positions.tolist(), strict=True)):
        held = run.seen(row, slot)[0]
        reach, last = row["window"] or run.program.context, position if sight == CAUSAL else len(held) - 1
        first, last = max(0, position + 1 - reach), min(last, position + reach - 1)
        away = np.arange(first, last + 1) - position
        scores = np.einsum("ghd,pgd->ghp", q[t], held[first : last + 1]) * row["scale"]
        if row["cap"]:
            scores = row["cap"] * np.tanh(scores / row["cap"])
        if row["slopes"] is not None:
            scores = scores + run.param(row["slopes"], row["heads"]).reshape(kv_heads, -1, 1) * away
        scores = scores + _of_distance(run, row, t, away).reshape(kv_heads, -1, len(away))
        if row.get("sinks") is not None:  # one more position, whose value is zero
            sinks = run.param(row["sinks"], row["heads"]).reshape(kv_heads, -1, 1)
            scores = np.concatenate([scores, sinks], axis=2)
        yield first, softmax(scores)[:, :, : len(away)]


def _of_distance(run: Reference, row: Values, t: int, away: NDArray[np.int64]) -> Array:
    """What is added to the scores of token t at distances `away`: [heads, positions]."""
    heads, found = row["heads"], np.zeros((row["heads"], len(away)))
    if row.get("distances") is not None:
        width = pad(2 * (row["span"] + EDGE) + 1, 16)
        table = run.param(row["distances"], heads * width).reshape(heads, width)
        found = table[:, np.clip(away, -row["span"], row["span"]) + row["span"] + EDGE] * math.log(2)
    if row.get("q_terms") is not None:
        index = run.param(row["index"], 2 * row["span"] + 1).astype(int)[away + row["span"]]
        keys = t + away  # a sequence's tokens are neighbours in the batch
        of_q, of_k = (run.buffer(row[name]).reshape(-1, heads, row["ldh"]) for name in ("q_terms", "k_terms"))
        found = row["scale"] * (of_q[t][:, index] + of_k[keys, :, index].T)
    return found


OPS: dict[str, Callable[[Reference, Values], None]] = {
    "rms_norm": rms_norm,
    "quantize": quantize,
    "route": route,
    "dispatch": dispatch,
    "combine": combine,
    "layer_norm": layer_norm,
    "activate": activate,
    "limit": limit,
    "grow": grow,
    "gather": gather,
    "average": average,
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


def heads_of(run: Reference, row: Values, name: str) -> Array:
    """The heads of q, k or v, a view [T, kv_heads, group, D] of their buffer; k and v have groups of one."""
    x, d, kv_heads = run.buffer(row[name]), row["head_dim"], row["kv_heads"]
    group, step = (row["heads"] // kv_heads, row["q_step"]) if name == "q" else (1, row["k_step"])
    strides = (x.strides[0], step * x.itemsize, d * x.itemsize, x.itemsize)
    view: Array = np.lib.stride_tricks.as_strided(x, (len(x), kv_heads, group, d), strides)
    return view


def turned(run: Reference, row: Values, norm: str, x: Array) -> Array:
    """Heads [T, kv_heads, group, D], normed by the parameter that the row calls `norm`, if any, and rotated."""
    if row[norm] is not None:
        heads, step = x.shape[1] * x.shape[2], row["norm_step"]
        places, d, behind = [head * step for head in range(heads)], row["head_dim"], row["norm_bias"]
        held = run.param(row[norm], places[-1] + behind + d)
        weights, biases = ([held[place + far : place + far + d] for place in places] for far in (0, behind))
        x = x - x.mean(axis=-1, keepdims=True) if row["norm_center"] else x
        x = root_mean_square(x, row["norm_eps"]) * np.reshape(weights, x.shape[1:])
        x = x + np.reshape(biases, x.shape[1:]) if behind else x
    if not row["rope_dim"]:
        return x
    positions = run.batch[2]
    tables = run.program.ropes[row["table"]].tables(0, int(positions.max()) + 1)
    cos, sin = (table.astype(np.float64)[positions][:, None, None] for table in tables)
    return rotate(x, row["rope_dim"], cos, sin, row["paired"])


def rotate(x: Array, dim: int, cos: Array, sin: Array, paired: bool = False) -> Array:
    """The first `dim` numbers of x [..., D] turned in pairs (i, i + dim/2), or (2 i, 2 i + 1).

    cos, sin: [..., dim/2].
    """
    y = x.copy()
    first, second = (slice(0, dim, 2), slice(1, dim, 2)) if paired else (slice(dim // 2), slice(dim // 2, dim))
    a, b = x[..., first], x[..., second]
    y[..., first], y[..., second] = a * cos - b * sin, b * cos + a * sin
    return y


def root_mean_square(x: Array, eps: float) -> Array:
    """x / sqrt(mean(x^2) + eps), along the last axis."""
    y: Array = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
    return y


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


def softmax(x: Array) -> Array:
    """Along the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    total: Array = e / e.sum(axis=-1, keepdims=True)
    return total


def sigmoid(x: Array) -> Array:
    with np.errstate(over="ignore"):
        result: Array = 1 / (1 + np.exp(-x))
    return result


ACTIVATION: dict[str, Callable[[Array], Array]] = {
    "silu": lambda x: x * sigmoid(x),
    "gelu": lambda x: x / 2 * (1 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2))),
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x * sigmoid(1.702 * x),
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
    "clamped_swiglu": lambda x: np.minimum(x, 7) * sigmoid(1.702 * np.minimum(x, 7)),
}
