"""OLMoE (arXiv:2409.02060): experts in every layer, q and k normed over all heads."""

from .decoder import read_decoder
from .fields import Fields
from .mixtures import read_experts, with_experts
from .spec import ModelSpec, Norm

__all__ = ["read"]


def read(fields: Fields) -> ModelSpec:
    """The spec of an OlmoeForCausalLM config."""
    bias = fields.flag("attention_bias", default=False)
    norm = Norm(fields.number("rms_norm_eps", low=1e-30, high=1.0, default=1e-5))
    clip = fields.number_or_null("clip_qkv", 1e-9, 1e9, None) or 0.0
    fields = fields.with_default(num_experts=64, num_experts_per_tok=8)
    spec = read_decoder(
        fields, "olmoe", norm=norm, rope={},
        attention=dict(qkv_bias=bias, o_bias=bias, qk_norm=norm, qk_norm_over="all", clip=clip),
    )  # fmt: skip
    normalise = fields.flag("norm_topk_prob", default=False)
    return with_experts(spec, read_experts(fields, "num_experts", "intermediate_size", normalise=normalise))
