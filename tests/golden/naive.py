"""A decoder as plain as it can be written, in float64: what the specs and the recipes are checked with.

It knows nothing of the engine: no cache, no batch, no program; one token attends to the tokens before it.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

from lepton_edge.models.spec import Attention, ModelSpec


def forward(spec: ModelSpec, tensors: Mapping[str, np.ndarray], tokens: np.ndarray) -> np.ndarray:
    """The logits, float64 [T, V], of a sequence of tokens that starts at position 0."""

    def get(part: str, layer: int | None = None) -> np.ndarray:
        return tensors[spec.names.name(part, layer)].astype(np.float64)

    def linear(x: np.ndarray, part: str, layer: int, bias: bool) -> np.ndarray:
        y = x @ get(part, layer).T
        return y + get(f"{part}.bias", layer) if bias else y

    x = get("embed")[tokens]
    for layer, (attention, feed_forward) in enumerate((layer.mixer, layer.feed_forward) for layer in spec.layers):
        x = x + _attention(attention, layer, rms_norm(x, get("attn_norm", layer), spec.norm.eps), linear)
        h = rms_norm(x, get("ffn_norm", layer), spec.norm.eps)
        gate, up = (linear(h, part, layer, feed_forward.bias) for part in ("gate", "up"))
        x = x + linear(gate / (1 + np.exp(-gate)) * up, "down", layer, feed_forward.bias)
    return rms_norm(x, get("final_norm"), spec.norm.eps) @ get("embed" if spec.tied else "head").T


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """Root mean square norm (arXiv:1910.07467) of each row."""
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def _attention(
    spec: Attention, layer: int, h: np.ndarray, linear: Callable[[np.ndarray, str, int, bool], np.ndarray]
) -> np.ndarray:
    """Causal attention [T, hidden] of normed activations [T, hidden], head by head."""
    length = len(h)
    cos, sin = (table.astype(np.float64) for table in spec.rope.tables(0, length))
    q = linear(h, "q", layer, spec.qkv_bias).reshape(length, spec.heads, spec.head_dim)
    k = linear(h, "k", layer, spec.qkv_bias).reshape(length, spec.kv_heads, spec.head_dim)
    v = linear(h, "v", layer, spec.qkv_bias).reshape(length, spec.kv_heads, spec.head_dim)
    position = np.arange(length)
    distance = position[:, None] - position[None, :]
    window = spec.window
    seen = (distance >= 0) & (distance < (length if window is None else window))
    out = np.empty((length, spec.heads, spec.head_dim))
    for head in range(spec.heads):
        shared = head // (spec.heads // spec.kv_heads)
        scores = rotate(q[:, head], cos, sin) @ rotate(k[:, shared], cos, sin).T / math.sqrt(spec.head_dim)
        weights = np.where(seen, np.exp(scores - scores.max(-1, keepdims=True)), 0.0)
        out[:, head] = weights / weights.sum(-1, keepdims=True) @ v[:, shared]
    return linear(out.reshape(length, -1), "o", layer, spec.o_bias)


def rotate(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Turns the pairs (i, i + D/2) of each row of [T, D]; cos and sin are [T, D/2]."""
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
