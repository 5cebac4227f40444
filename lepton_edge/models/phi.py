"""Phi 1, 1.5 and 2 (arXiv:2309.05463): attention and feed-forward side by side; Phi 3 and 4 (arXiv:2404.14219): Llama
with joined weights and long rotary positions."""

from .decoder import modules, read_decoder
from .fields import Fields
from .rope import MAX_POSITIONS
from .spec import ModelSpec, Norm

__all__ = ["read", "read_phi3"]


def read(fields: Fields) -> ModelSpec:
    """The spec of a PhiForCausalLM config."""
    norm = Norm(fields.number("layer_norm_eps", low=1e-30, high=1.0, default=1e-5), "layer", bias=True)
    qk_norm = norm if fields.flag("qk_layernorm", default=False) else None
    names = modules(
        o="self_attn.dense", up="mlp.fc1", down="mlp.fc2", final_norm="model.final_layernorm",
        q_norm="self_attn.q_layernorm", k_norm="self_attn.k_layernorm",
    )  # fmt: skip
    return read_decoder(
        fields, "phi", norm=norm, eps="layer_norm_eps", activation="gelu_new", rope=dict(part=0.5),
        attention=dict(qkv_bias=True, o_bias=True, qk_norm=qk_norm), feed_forward=dict(gated=False, bias=True),
        parallel=1, head_bias=True, names=names,
    )  # fmt: skip


def read_phi3(fields: Fields) -> ModelSpec:
    """The spec of a Phi3ForCausalLM config."""
    names = modules(qkv="self_attn.qkv_proj", gate_up="mlp.gate_up_proj")
    return read_decoder(
        fields, "phi3", norm=Norm(1e-5), rope=dict(part=1.0), windows=_windows, attention=dict(layout="joined"),
        feed_forward=dict(joined=True), names=names,
    )  # fmt: skip


def _windows(fields: Fields, layers: int) -> tuple[int | None, ...]:
    return (fields.integer_or_none("sliding_window", 1, MAX_POSITIONS),) * layers
