"""Cohere's Command R: attention and feed-forward side by side behind one layer norm, neighbours turned as pairs;
Command R7B (Cohere2): windows on three of four layers, and no positions on the fourth."""

from typing import Any

from .decoder import alternating, read_decoder
from .fields import Fields
from .spec import ModelSpec, Norm

__all__ = ["read", "read_cohere2"]


def read(fields: Fields) -> ModelSpec:
    """The spec of a CohereForCausalLM config."""
    norm = None
    if fields.flag("use_qk_norm", default=False):
        norm = Norm(fields.number("layer_norm_eps", low=1e-30, high=1.0, default=1e-5), "layer")
    return _read(fields, "cohere", dict(qk_norm=norm, qk_norm_over="heads"), dict(theta=500000.0))


def read_cohere2(fields: Fields) -> ModelSpec:
    """The spec of a Cohere2ForCausalLM config."""
    return _read(fields.with_default(head_dim=128), "cohere2", {}, dict(everywhere=False),
                 windows=alternating(4, "sliding_window_pattern"))  # fmt: skip


def _read(
    fields: Fields, family: str, attention: dict[str, Any], rope: dict[str, Any], **options: Any
) -> ModelSpec:  # fmt: skip
    bias = fields.flag("attention_bias", default=False)
    return read_decoder(
        fields, family, norm=Norm(1e-5, "layer"), eps="layer_norm_eps", rope=dict(paired=True, **rope), tied=True,
        attention=dict(qkv_bias=bias, o_bias=bias, **attention), parallel=1,
        logit_scale=fields.number("logit_scale", low=1e-9, high=1e9, default=0.0625), **options,
    )  # fmt: skip
