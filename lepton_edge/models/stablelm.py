"""StableLM (arXiv:2402.17834): Llama with layer norms and rotary positions on a part of a head."""

from .decoder import read_decoder
from .fields import Fields
from .spec import DecoderSpec, Norm

__all__ = ["read"]


def read(fields: Fields) -> DecoderSpec:
    """The spec of a StableLmForCausalLM config."""
    if fields.flag("qk_layernorm", default=False):
        raise fields.unsupported("qk_layernorm", "false")
    return read_decoder(
        fields, "stablelm", norm=Norm(1e-5, "layer", bias=True), eps="layer_norm_eps", rope=dict(part=0.25),
        attention=dict(qkv_bias=fields.flag("use_qkv_bias", default=False)),
        parallel=1 if fields.flag("use_parallel_residual", default=False) else 0,
    )  # fmt: skip
