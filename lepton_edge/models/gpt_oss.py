"""gpt-oss (arXiv:2508.10925): attention sinks, every other layer with a window, and experts stored as MXFP4."""

from dataclasses import replace

from ..checkpoint.stored import Stored
from .decoder import modules, read_decoder, read_kinds, windows_of
from .fields import Fields
from .mixtures import read_experts, with_experts
from .spec import ModelSpec, Names, Norm

__all__ = ["read"]

NAMES = modules(
    sinks="self_attn.sinks=", router="mlp.router", experts_in="mlp.experts.gate_up_proj=",
    experts_out="mlp.experts.down_proj=",
)  # fmt: skip
DEFAULTS = dict(head_dim=64, num_key_value_heads=8, num_local_experts=128, num_experts_per_tok=4,
                intermediate_size=2880)  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "truncate": False}


def read(fields: Fields) -> ModelSpec:
    """The spec of a GptOssForCausalLM config."""
    for name, value in (("swiglu_limit", 7.0), ("swiglu_alpha", 1.702)):
        if fields.number(name, low=0.0, high=1e6, default=value) != value:
            raise fields.unsupported(name, str(value))
    if fields.text("hidden_act", default="silu") != "silu":
        raise fields.unsupported("hidden_act", "silu")
    names = _names(fields)
    fields = fields.without("quantization_config").with_default(**DEFAULTS)
    if not fields.has("rope_scaling"):
        fields = fields.with_default(rope_parameters=YARN)
    bias = fields.flag("attention_bias", default=True)
    spec = read_decoder(
        fields, "gpt_oss", norm=Norm(1e-5), rope=dict(theta=150000.0), windows=_windows, names=names,
        attention=dict(qkv_bias=bias, o_bias=bias, sinks=True),
    )  # fmt: skip
    experts = dict(layout="stacked", bias=True, activation="clamped_swiglu")
    return with_experts(spec, read_experts(fields, "num_local_experts", "intermediate_size", **experts))


def _windows(fields: Fields, layers: int) -> tuple[int | None, ...]:
    """As `layer_types` says, or else on the first and every other layer."""
    return windows_of(fields, read_kinds(fields, layers, 2), 128)


def _names(fields: Fields) -> Names:
    """The names, and how the experts are stored: gate and up take turns."""
    options = fields.child("quantization_config")
    packed = fields.has("quantization_config")
    if packed and options.text("quant_method") != "mxfp4":
        raise options.unsupported("quant_method", "mxfp4")
    options.only(("quant_method", "modules_to_not_convert", "dequantize"))
    if any("experts" in str(name) for name in options.items("modules_to_not_convert", [])):
        raise options.unsupported("modules_to_not_convert", "modules other than the experts")
    matrix = Stored(transposed=not packed, mxfp4=packed)
    stored = {"experts_in": replace(matrix, turns=-2), "experts_in.bias": Stored(turns=-1), "experts_out": matrix}
    return replace(NAMES, stored=stored)
