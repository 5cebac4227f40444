"""Cohere's Command R: attention and feed-forward side by side behind one layer norm, neighbours turned as pairs;
Command R7B (Cohere2): windows on three of four layers, and no positions on the fourth."""

from dataclasses import replace
from typing import Any

from .decoder import change_attention, read_decoder, read_kinds, windows_of
from .fields import Fields
from .spec import Attention, DecoderSpec, Norm

__all__ = ["read", "read_cohere2"]


def read(fields: Fields) -> DecoderSpec:
    """The spec of a CohereForCausalLM config."""
    norm = None
    if fields.flag("use_qk_norm", default=False):
        norm = Norm(fields.number("layer_norm_eps", low=1e-30, high=1.0, default=1e-5), "layer")
    return _read(fields, "cohere", dict(qk_norm=norm, qk_norm_over="heads"), theta=500000.0)


def read_cohere2(fields: Fields) -> DecoderSpec:
    """The spec of a Cohere2ForCausalLM config."""
    spec = _read(fields.with_default(head_dim=128), "cohere2", {}, theta=10000.0)
    layers = len(spec.layers)
    kinds = read_kinds(fields, layers, fields.integer("sliding_window_pattern", 1, 4096, default=4))
    windows = windows_of(fields, kinds, 4096)

    def change(i: int, attention: Attention) -> Attention:
        return replace(attention, window=windows[i], rope=attention.rope if windows[i] else None)

    return change_attention(spec, change)


def _read(fields: Fields, family: str, attention: dict[str, Any], theta: float) -> DecoderSpec:
    bias = fields.flag("attention_bias", default=False)
    return read_decoder(
        fields, family, norm=Norm(1e-5, "layer"), eps="layer_norm_eps", rope=dict(paired=True, theta=theta), tied=True,
        attention=dict(qkv_bias=bias, o_bias=bias, **attention), parallel=1,
        logit_scale=fields.number("logit_scale", low=1e-9, high=1e9, default=0.0625),
    )  # fmt: skip
