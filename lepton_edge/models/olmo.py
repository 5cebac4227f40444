"""OLMo (arXiv:2402.00838: norms without weights), OLMo 2 (arXiv:2501.00656: norms behind, q and k normed) and OLMo 3
(windows on three of four layers)."""

from typing import Any

from .decoder import alternating, modules, read_decoder
from .fields import Fields
from .spec import ModelSpec, Norm

__all__ = ["read", "read_olmo2", "read_olmo3"]


def read(fields: Fields) -> ModelSpec:
    """The spec of an OlmoForCausalLM config."""
    bias = fields.flag("attention_bias", default=False)
    clip = fields.number_or_null("clip_qkv", 1e-9, 1e9, None) or 0.0
    return read_decoder(
        fields.without("rms_norm_eps"), "olmo", norm=Norm(1e-5, "layer", weight=False), rope={},
        attention=dict(qkv_bias=bias, o_bias=bias, clip=clip),
    )  # fmt: skip


def read_olmo2(fields: Fields) -> ModelSpec:
    """The spec of an Olmo2ForCausalLM config."""
    return _read_after(fields, "olmo2")


def read_olmo3(fields: Fields) -> ModelSpec:
    """The spec of an Olmo3ForCausalLM config; only layers of full attention stretch their positions."""
    theta = fields.number("rope_theta", low=2.0, high=1e18, default=5e5)
    if theta != 5e5 and not fields.has("rope_parameters"):  # transformers takes it for layers without a window only
        raise fields.unsupported("rope_theta", "500000, or rope_parameters for each of the layer types")
    near = dict(theta=5e5, kind="sliding_attention")
    return _read_after(
        fields, "olmo3", rope=dict(theta=5e5, kind="full_attention", local=near), windows=alternating(4)
    )


def _read_after(fields: Fields, family: str, **options: Any) -> ModelSpec:
    norm = Norm(fields.number("rms_norm_eps", low=1e-30, high=1.0, default=1e-5))
    bias = fields.flag("attention_bias", default=False)
    names = modules(attn_post_norm="post_attention_layernorm", ffn_post_norm="post_feedforward_layernorm")
    return read_decoder(
        fields, family, norm=norm, norm_before=False, norm_after=True, names=names,
        attention=dict(qkv_bias=bias, o_bias=bias, qk_norm=norm, qk_norm_over="all"), **{"rope": {}, **options},
    )  # fmt: skip
