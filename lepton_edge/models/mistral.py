"""Mistral (arXiv:2310.06825): Llama with a sliding window on every layer, or on none; Ministral: on some; Ministral 3:
stretched positions, and queries that grow with them."""

from .decoder import read_decoder, read_kinds, windows_of
from .fields import Fields
from .rope import MAX_POSITIONS
from .spec import ModelSpec, Norm

__all__ = ["read", "read_ministral", "read_ministral3"]

YARN = {
    "rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 16384, "mscale": 1.0,
    "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
}  # Ministral 3's, where a config says nothing  # fmt: skip


def read(fields: Fields) -> ModelSpec:
    """The spec of a MistralForCausalLM config."""
    return read_decoder(fields, "mistral", rope={}, windows=_windows)


def read_ministral(fields: Fields) -> ModelSpec:
    """The spec of a MinistralForCausalLM config."""
    return read_decoder(fields, "ministral", rope={}, windows=_ministral_windows)


def read_ministral3(fields: Fields) -> ModelSpec:
    """The spec of a Ministral3ForCausalLM config."""
    fields = fields.with_default(head_dim=128)
    if not fields.has("rope_scaling"):
        fields = fields.with_default(rope_parameters=YARN)
    rope = fields.child("rope_scaling" if fields.has("rope_scaling") else "rope_parameters")
    growth = dict(
        growth=rope.number("llama_4_scaling_beta", low=0.0, high=100.0),
        growth_every=rope.integer("original_max_position_embeddings", 1, MAX_POSITIONS),
    )
    return read_decoder(
        fields, "ministral3", norm=Norm(1e-5), rope={}, windows=_ministral3_windows, attention=growth
    )


def _windows(fields: Fields, layers: int) -> tuple[int | None, ...]:
    """`sliding_window` null means none; a config without the field means 4096, the default of transformers."""
    window = fields.integer_or_null("sliding_window", 1, MAX_POSITIONS, default=4096)
    if fields.has("layer_types"):
        kind = "full_attention" if window is None else "sliding_attention"
        if set(fields.texts("layer_types", layers)) != {kind}:
            raise fields.unsupported("layer_types", f"{kind} on every layer, as sliding_window says")
    return (window,) * layers


def _ministral3_windows(fields: Fields, layers: int) -> tuple[int | None, ...]:
    """A window on every layer, or, as in all that were published, on none."""
    return (fields.integer_or_none("sliding_window", 1, MAX_POSITIONS),) * layers


def _ministral_windows(fields: Fields, layers: int) -> tuple[int | None, ...]:
    """`layer_types` says which layers have the window; without it, all of them."""
    window = fields.integer_or_null("sliding_window", 1, MAX_POSITIONS, default=4096)
    if not fields.has("layer_types"):
        return (window,) * layers
    return windows_of(fields, read_kinds(fields, layers, 0))
