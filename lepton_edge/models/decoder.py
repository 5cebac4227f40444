"""The fields that all decoder families share."""

from collections.abc import Callable
from dataclasses import replace

from .fields import Fields
from .rope import MAX_POSITIONS, read_rope
from .spec import Attention, DecoderSpec, FeedForward, Layer, Norm

__all__ = ["read_decoder"]

# Bounds far above any real model, low enough that no product of two of them overflows an int64.
MAX_LAYERS, MAX_HEADS, MAX_HEAD_DIM, MAX_WIDTH, MAX_VOCAB = 4096, 1024, 1024, 1 << 20, 1 << 24

Windows = Callable[[Fields, int], tuple[int | None, ...]]


def read_decoder(
    fields: Fields,
    family: str,
    *,
    windows: Windows | None = None,
    qkv_bias: bool = False,
    o_bias: bool = False,
    mlp_bias: bool = False,
) -> DecoderSpec:
    """The spec of a decoder with Llama's field names. `windows` reads the window of each layer (default: none).

    Raises ConfigError or UnsupportedModelError.
    """
    if fields.has("quantization_config"):
        raise fields.unsupported("quantization_config", "float32, float16, bfloat16, or packed by lepton")
    hidden = fields.integer("hidden_size", 1, MAX_WIDTH)
    layers = fields.integer("num_hidden_layers", 1, MAX_LAYERS)
    heads = fields.integer("num_attention_heads", 1, MAX_HEADS)
    kv_heads = fields.integer("num_key_value_heads", 1, MAX_HEADS, default=heads)
    if heads % kv_heads:
        raise fields.error("num_key_value_heads", f"a divisor of num_attention_heads, {heads}")
    head_dim = _head_dim(fields, hidden, heads)
    rope, context = read_rope(fields, head_dim, fields.integer("max_position_embeddings", 1, MAX_POSITIONS))
    if fields.text("hidden_act", default="silu") not in ("silu", "swish"):
        raise fields.unsupported("hidden_act", "silu")
    seen = windows(fields, layers) if windows else (None,) * layers
    attention = Attention(heads, kv_heads, head_dim, rope, qkv_bias=qkv_bias, o_bias=o_bias)
    feed_forward = FeedForward(fields.integer("intermediate_size", 1, MAX_WIDTH), bias=mlp_bias)
    return DecoderSpec(
        family=family,
        vocab=fields.integer("vocab_size", 1, MAX_VOCAB),
        hidden=hidden,
        layers=tuple(Layer(replace(attention, window=window), feed_forward) for window in seen),
        context=context,
        norm=Norm(fields.number("rms_norm_eps", low=1e-30, high=1.0, default=1e-6)),
        tied=fields.flag("tie_word_embeddings", default=False),
    )


def _head_dim(fields: Fields, hidden: int, heads: int) -> int:
    """The head size; hidden/heads when the config does not say. Even, because rotary embeddings turn pairs."""
    if fields.has("head_dim"):
        head_dim = fields.integer("head_dim", 2, MAX_HEAD_DIM)
        if head_dim % 2:
            raise fields.error("head_dim", "an even number")
        return head_dim
    if hidden % heads or (hidden // heads) % 2 or hidden // heads > MAX_HEAD_DIM:
        raise fields.error(
            "hidden_size", f"an even multiple of num_attention_heads, {heads}, and at most {MAX_HEAD_DIM} times it"
        )
    return hidden // heads
