"""Qwen1.5-MoE and Qwen2-MoE (experts beside one that all tokens share), and Qwen3-MoE (arXiv:2505.09388)."""

from typing import Any

from .decoder import MAX_WIDTH, read_decoder, read_kinds, windows_of
from .fields import Fields
from .mixtures import read_experts, sparse_layers, with_experts
from .rope import MAX_POSITIONS
from .spec import Experts, ModelSpec, Norm

__all__ = ["read_qwen2_moe", "read_qwen3_moe"]

EPS = dict(low=1e-30, high=1.0, default=1e-6)


def read_qwen2_moe(fields: Fields) -> ModelSpec:
    """The spec of a Qwen2MoeForCausalLM config."""
    shared = fields.integer("shared_expert_intermediate_size", 1, MAX_WIDTH, default=5632)
    spec = read_decoder(
        fields, "qwen2_moe", rope={}, windows=_qwen2_windows, ffn=5632,
        attention=dict(qkv_bias=fields.flag("qkv_bias", default=True)),
    )  # fmt: skip
    experts = _experts(fields.with_default(num_experts=60, num_experts_per_tok=4, moe_intermediate_size=1408),
                       shared=shared)  # fmt: skip
    return with_experts(spec, experts, sparse_layers(fields, len(spec.layers)))


def read_qwen3_moe(fields: Fields) -> ModelSpec:
    """The spec of a Qwen3MoeForCausalLM config."""
    bias, norm = fields.flag("attention_bias", default=False), Norm(fields.number("rms_norm_eps", **EPS))
    if fields.has("num_local_experts"):  # transformers 5 writes that name
        fields = fields.renamed(num_experts="num_local_experts")
    spec = read_decoder(
        fields, "qwen3_moe", rope={}, windows=_qwen3_windows, ffn=6144,
        attention=dict(qkv_bias=bias, o_bias=bias, qk_norm=norm),
    )  # fmt: skip
    experts = _experts(fields.with_default(num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768))
    return with_experts(spec, experts, sparse_layers(fields, len(spec.layers)))


def _experts(fields: Fields, **options: Any) -> Experts:
    normalise = fields.flag("norm_topk_prob", default=False)
    return read_experts(fields, "num_experts", "moe_intermediate_size", normalise=normalise, **options)


def _qwen2_windows(fields: Fields, layers: int) -> tuple[int | None, ...]:
    """`layer_types`, or a window on every other one of the first `max_window_layers`."""
    if not fields.flag("use_sliding_window", default=False):
        if fields.has("layer_types") and "sliding_attention" in read_kinds(fields, layers, 0):
            raise fields.error("layer_types", "full_attention only, because use_sliding_window is off")
        return (None,) * layers
    if fields.has("layer_types"):
        return windows_of(fields, read_kinds(fields, layers, 0), 4096)
    first = fields.integer("max_window_layers", 0, 1 << 20, default=28)
    window = fields.integer("sliding_window", 1, MAX_POSITIONS, default=4096)
    return tuple(window if i % 2 == 0 and i < first else None for i in range(layers))


def _qwen3_windows(fields: Fields, layers: int) -> tuple[int | None, ...]:
    """A window on every layer, or on none."""
    on = fields.flag("use_sliding_window", default=False)
    return (fields.integer("sliding_window", 1, MAX_POSITIONS, default=4096) if on else None,) * layers
