"""Small seeded decoders in memory, and engines and references that run them."""

import zlib

import numpy as np

from lepton_edge.checkpoint.store import Weight
from lepton_edge.kernels.machine import instruction_set
from lepton_edge.models.rope import RopeSpec
from lepton_edge.models.spec import Attention, FeedForward, Layer, ModelSpec, Norm
from lepton_edge.program.reference import Reference
from lepton_edge.quant.formats import get_format
from lepton_edge.runtime import Engine

FORMATS = ("f32", "f16", "bf16", "q8", "q4")


def decoder(hidden, ffn, heads, kv_heads, head_dim, vocab, *, windows=(None, None), context=256, biases=(0, 0, 0),
            tied=False):  # fmt: skip
    """A spec with a layer for each window; `biases` says whether q k v, o, and the feed-forward have some."""
    qkv, o, mlp = map(bool, biases)
    rope, feed_forward = RopeSpec(10000.0, head_dim), FeedForward(ffn, bias=mlp)
    layers = tuple(Layer(Attention(heads, kv_heads, head_dim, rope, w, qkv, o), feed_forward) for w in windows)
    return ModelSpec("test", vocab, hidden, layers, context, Norm(1e-5), tied)


PLAIN = decoder(64, 96, 4, 2, 16, 96)
# Sizes that are multiples of nothing, biases everywhere, one table, one key head.
ODD = decoder(70, 90, 5, 1, 24, 83, biases=(1, 1, 1), tied=True)
WINDOWS = decoder(80, 52, 6, 3, 10, 101, windows=(9, None, 130), context=1100, biases=(1, 0, 0))
SPECS = {"plain": PLAIN, "odd": ODD, "windows": WINDOWS}


class Weights:
    """Stands in for a checkpoint: seeded normal weights that keep activations and logits near 1."""

    def __init__(self, spec: ModelSpec, format: str = "f32") -> None:
        self._shapes, self._format = spec.tensors(), format
        self.before_step = lambda: None  # called as often as the engine looks whether its files changed

    def weight(self, name: str) -> Weight:
        shape = self._shapes[name]
        normal = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
        if len(shape) == 1:
            values = (0.3 * normal if name.endswith("bias") else 1 + 0.2 * normal).astype(np.float32)
            return Weight(name, "f32", shape, values.view(np.uint8))
        gain = np.float32((1.6 if "q_proj" in name or "k_proj" in name else 1.0) / shape[1] ** 0.5)
        return Weight(name, self._format, shape, get_format(self._format).pack(normal * gain))

    def require(self, expected: dict) -> None:
        assert expected == self._shapes

    def check_unchanged(self) -> None:
        self.before_step()


def load(spec: ModelSpec, format: str = "f32", **options) -> Engine:
    """options: as of Engine.load; one thread unless they say otherwise."""
    return Engine.load(Weights(spec, format), spec, **{"threads": 1} | options)


def reference(engine: Engine) -> Reference:
    return Reference(engine.program, engine.spec)


def tokens(count: int, spec: ModelSpec, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, spec.vocab, count).astype(np.int32)


def feed(engine, slot: int, ids, chunk: int | None = None, wanted=None) -> np.ndarray:
    """Appends tokens to a sequence, `chunk` in a call; -> the logits of all of them, or of those `wanted`."""
    rows = []
    for start in range(0, len(ids), chunk or len(ids)):
        part = ids[start : start + (chunk or len(ids))]
        first = engine.length(slot)
        picks = np.arange(len(part)) if wanted is None else wanted
        rows.append(engine.forward(part, [slot] * len(part), first + np.arange(len(part)), picks))
    return np.concatenate(rows)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """||a - b|| / ||b||, in float64."""
    return float(np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(b.astype(np.float64)))


def tolerance(format: str, kv_dtype: str, *isas: str) -> float:
    """How far two right executions of these small decoders may be apart, as `relative` has it.

    f32 cache: what the project promises, 1e-5: some 20 sums of up to 100 rounded terms, one after the other.
    f16 cache: at worst every key and value rounds differently: 2^-11 / sqrt(3) for each, in three layers: 7e-4.
    Packed, or a q8 cache: at worst every code of the activations does, or of the keys, values and queries: 1/127 /
    sqrt(12) of the largest of 32, which is 2.5 times the root mean square, so 0.6% in each of the 15 products that
    follow each other: 2.3%, and twice that for two runs.
    bf16 where an instruction set multiplies pairs: activations round to 8 bits, an rms error of 2^-8 / sqrt(3) at the
    mantissa 1, and 0.74 of it over all mantissas, 0.17%; as before, 0.65% in 15 products, and twice that.
    """
    if format in ("q8", "q4") or kv_dtype == "q8":
        return 0.05
    if format == "bf16" and any(instruction_set(isa).bf16_pairs for isa in isas):
        return 0.013
    return 1e-5 if kv_dtype == "f32" else 1e-3
