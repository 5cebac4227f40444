"""Granite: Llama with factors on the embedding, the scores, the residuals and the logits; GraniteMoe, with experts."""

from dataclasses import replace
from typing import Any

from .decoder import modules, read_decoder, scale_residuals
from .fields import Fields
from .mixtures import read_experts, with_experts
from .spec import ModelSpec

__all__ = ["read", "read_moe"]


def read(fields: Fields) -> ModelSpec:
    """The spec of a GraniteForCausalLM config."""
    mlp_bias = fields.flag("mlp_bias", default=False)
    return _read(fields, "granite", feed_forward=dict(bias=mlp_bias))


def read_moe(fields: Fields) -> ModelSpec:
    """The spec of a GraniteMoeForCausalLM config: a layer's experts lie in two tensors."""
    fields = fields.with_default(num_local_experts=8, num_experts_per_tok=2)
    names = modules(router="block_sparse_moe.router.layer", experts_in="block_sparse_moe.input_linear",
                    experts_out="block_sparse_moe.output_linear")  # fmt: skip
    spec = _read(fields, "granitemoe", names=names)
    return with_experts(spec, read_experts(fields, "num_local_experts", "intermediate_size", layout="stacked"))


def _read(fields: Fields, family: str, **options: Any) -> ModelSpec:
    bias = fields.flag("attention_bias", default=False)
    embed, scores, residual, logits = (
        fields.number(name, low=1e-9, high=1e9, default=1.0)
        for name in ("embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling")
    )
    spec = read_decoder(
        fields, family, rope={}, attention=dict(qkv_bias=bias, o_bias=bias, scale=scores), **options
    )
    return scale_residuals(replace(spec, embed_scale=embed, logit_scale=1 / logits), residual)
