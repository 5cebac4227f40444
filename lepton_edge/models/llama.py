"""Llama (arXiv:2302.13971), and what copies it: SmolLM, SmolLM2, TinyLlama, Yi, DeepSeek Coder; and MiniCPM."""

from dataclasses import replace

from .decoder import read_decoder, scale_residuals
from .fields import Fields
from .spec import ModelSpec

__all__ = ["read", "read_minicpm"]


def read(fields: Fields) -> ModelSpec:
    """The spec of a LlamaForCausalLM config: biases on all attention or all feed-forward weights, if any."""
    attention = fields.flag("attention_bias", default=False)
    return read_decoder(
        fields,
        "llama",
        rope={},
        attention=dict(qkv_bias=attention, o_bias=attention),
        feed_forward=dict(bias=fields.flag("mlp_bias", default=False)),
    )


def read_minicpm(fields: Fields) -> ModelSpec:
    """MiniCPM (arXiv:2404.06395): the embedding, residuals and logits are scaled."""
    if fields.integer("num_experts", 0, 4096, default=0):
        raise fields.unsupported("num_experts", "0")
    if fields.has("sparse_config"):
        raise fields.unsupported("sparse_config", "null")
    spec = read_decoder(fields, "minicpm", rope={}, tied=True)
    embed = fields.number("scale_emb", low=1e-6, high=1e6, default=1.0)
    depth = fields.number("scale_depth", low=1e-6, high=1e6, default=1.0)
    base = fields.integer("dim_model_base", 1, 1 << 20, default=spec.hidden)
    spec = replace(spec, embed_scale=embed, logit_scale=base / spec.hidden)
    return scale_residuals(spec, depth / len(spec.layers) ** 0.5)
