"""Qwen2 and Qwen2.5 (arXiv:2407.10671): Llama with q, k and v biases, and a sliding window on some layers."""

from .decoder import read_decoder, read_kinds
from .fields import Fields
from .rope import MAX_POSITIONS
from .spec import ModelSpec

__all__ = ["read", "windows"]


def read(fields: Fields) -> ModelSpec:
    """The spec of a Qwen2ForCausalLM config."""
    return read_decoder(fields, "qwen2", rope={}, windows=windows, attention=dict(qkv_bias=True))


def windows(fields: Fields, layers: int) -> tuple[int | None, ...]:
    """`layer_types` says which layers have the window; without it, those from `max_window_layers` on."""
    window = fields.integer_or_null("sliding_window", 1, MAX_POSITIONS, default=4096)
    if not fields.flag("use_sliding_window", default=False):
        window = None
    if not fields.has("layer_types"):
        first = fields.integer("max_window_layers", 0, 1 << 20, default=28)
        return tuple(window if layer >= first else None for layer in range(layers))
    kinds = read_kinds(fields, layers, 0)
    if window is None and "sliding_attention" in kinds:
        raise fields.error("layer_types", "full_attention only, because use_sliding_window or sliding_window is off")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)
