"""Mistral (arXiv:2310.06825): Llama with a sliding window on every layer, or on none; Ministral: on some."""

from .decoder import read_decoder, read_kinds, windows_of
from .fields import Fields
from .rope import MAX_POSITIONS
from .spec import DecoderSpec

__all__ = ["read", "read_ministral"]


def read(fields: Fields) -> DecoderSpec:
    """The spec of a MistralForCausalLM config."""
    return read_decoder(fields, "mistral", rope={}, windows=_windows)


def read_ministral(fields: Fields) -> DecoderSpec:
    """The spec of a MinistralForCausalLM config."""
    return read_decoder(fields, "ministral", rope={}, windows=_ministral_windows)


def _windows(fields: Fields, layers: int) -> tuple[int | None, ...]:
    """`sliding_window` null means none; a config without the field means 4096, the default of transformers."""
    window = fields.integer_or_null("sliding_window", 1, MAX_POSITIONS, default=4096)
    if fields.has("layer_types"):
        kind = "full_attention" if window is None else "sliding_attention"
        if set(fields.texts("layer_types", layers)) != {kind}:
            raise fields.unsupported("layer_types", f"{kind} on every layer, as sliding_window says")
    return (window,) * layers


def _ministral_windows(fields: Fields, layers: int) -> tuple[int | None, ...]:
    """`layer_types` says which layers have the window; without it, all of them."""
    window = fields.integer_or_null("sliding_window", 1, MAX_POSITIONS, default=4096)
    if not fields.has("layer_types"):
        return (window,) * layers
    return windows_of(fields, read_kinds(fields, layers, 0))
