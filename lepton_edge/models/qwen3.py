"""Qwen3 (arXiv:2505.09388): Qwen2 with norms of the heads of q and k, and without their biases."""

from .decoder import read_decoder
from .fields import Fields
from .qwen2 import windows
from .spec import ModelSpec, Norm

__all__ = ["read"]


def read(fields: Fields) -> ModelSpec:
    """The spec of a Qwen3ForCausalLM config."""
    bias = fields.flag("attention_bias", default=False)
    norm = Norm(fields.number("rms_norm_eps", low=1e-30, high=1.0, default=1e-6))
    fields = fields.with_default(head_dim=128)
    return read_decoder(
        fields, "qwen3", rope={}, windows=windows, attention=dict(qkv_bias=bias, o_bias=bias, qk_norm=norm)
    )
