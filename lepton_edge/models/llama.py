"""Llama (arXiv:2302.13971), and what copies it: SmolLM, SmolLM2, TinyLlama, Yi, DeepSeek Coder."""

from .decoder import read_decoder
from .fields import Fields
from .spec import DecoderSpec

__all__ = ["read"]


def read(fields: Fields) -> DecoderSpec:
    """The spec of a LlamaForCausalLM config: biases on all attention or all feed-forward weights, if any."""
    attention = fields.flag("attention_bias", default=False)
    mlp = fields.flag("mlp_bias", default=False)
    return read_decoder(fields, "llama", qkv_bias=attention, o_bias=attention, mlp_bias=mlp)
