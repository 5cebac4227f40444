"""GPT-NeoX (arXiv:2204.06745) and Pythia: attention and feed-forward side by side, a part of each head is turned."""

from .decoder import modules, read_decoder
from .fields import Fields
from .spec import ModelSpec, Norm

__all__ = ["read"]

NAMES = modules(
    "gpt_neox.layers.{layer}.", embed="gpt_neox.embed_in", final_norm="gpt_neox.final_layer_norm", head="embed_out",
    attn_norm="input_layernorm", ffn_norm="post_attention_layernorm", qkv="attention.query_key_value",
    o="attention.dense", up="mlp.dense_h_to_4h", down="mlp.dense_4h_to_h",
)  # fmt: skip


def read(fields: Fields) -> ModelSpec:
    """The spec of a GPTNeoXForCausalLM config."""
    for name, own in (("rope_theta", "rotary_emb_base"), ("partial_rotary_factor", "rotary_pct")):
        if fields.has(name) and not fields.has(own):  # transformers takes its default then
            raise fields.unsupported(name, own)
    fields = fields.renamed(partial_rotary_factor="rotary_pct", rope_theta="rotary_emb_base")
    bias = fields.flag("attention_bias", default=True)
    return read_decoder(
        fields, "gpt_neox", norm=Norm(1e-5, "layer", bias=True), eps="layer_norm_eps", activation="gelu",
        rope=dict(part=0.25), attention=dict(qkv_bias=bias, o_bias=bias, layout="grouped"),
        feed_forward=dict(gated=False, bias=True), names=NAMES,
        parallel=2 if fields.flag("use_parallel_residual", default=True) else 0,
    )  # fmt: skip
