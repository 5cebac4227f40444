"""Granite: Llama with factors on the embedding, the scores, the residuals and the logits."""

from dataclasses import replace

from .decoder import read_decoder, scale_residuals
from .fields import Fields
from .spec import DecoderSpec

__all__ = ["read"]


def read(fields: Fields) -> DecoderSpec:
    """The spec of a GraniteForCausalLM config."""
    bias = fields.flag("attention_bias", default=False)
    embed, scores, residual, logits = (
        fields.number(name, low=1e-9, high=1e9, default=1.0)
        for name in ("embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling")
    )
    spec = read_decoder(
        fields, "granite", rope={}, attention=dict(qkv_bias=bias, o_bias=bias, scale=scores),
        feed_forward=dict(bias=fields.flag("mlp_bias", default=False)),
    )  # fmt: skip
    return scale_residuals(replace(spec, embed_scale=embed, logit_scale=1 / logits), residual)
