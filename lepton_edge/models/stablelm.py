"""StableLM (arXiv:2402.17834): Llama with layer norms and rotary positions on a part of a head; the one of 12B norms
each head of q and k."""

from .decoder import modules, read_decoder
from .fields import Fields
from .spec import ModelSpec, Norm

__all__ = ["read"]


def read(fields: Fields) -> ModelSpec:
    """The spec of a StableLmForCausalLM config."""
    eps = fields.number("layer_norm_eps", low=1e-30, high=1.0, default=1e-5)
    qk_norm = Norm(eps, "layer") if fields.flag("qk_layernorm", default=False) else None
    names = modules(**{f"{part}_norm": f"self_attn.{part}_layernorm.norms.{{head}}" for part in "qk"})
    return read_decoder(
        fields, "stablelm", norm=Norm(eps, "layer", bias=True), eps="layer_norm_eps", rope=dict(part=0.25), names=names,
        attention=dict(qkv_bias=fields.flag("use_qkv_bias", default=False), qk_norm=qk_norm, qk_norm_over="each"),
        parallel=1 if fields.flag("use_parallel_residual", default=False) else 0,
    )  # fmt: skip
