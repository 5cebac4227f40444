"""Falcon (arXiv:2311.16867): 7B with one key head, 40B with a key head for each group, RW with ALiBi."""

from dataclasses import replace

from .alibi import bloom_slopes
from .decoder import change_attention, modules, read_decoder
from .fields import Fields
from .spec import ModelSpec, Names, Norm

__all__ = ["read"]


def read(fields: Fields) -> ModelSpec:
    """The spec of a FalconForCausalLM config."""
    fields = fields.renamed(
        num_key_value_heads="num_kv_heads", hidden_act="activation", intermediate_size="ffn_hidden_size"
    )
    fields = fields.renamed(num_hidden_layers="n_layer", num_attention_heads="n_head", num_key_value_heads="n_head_kv")
    new = fields.flag("new_decoder_architecture", default=False)
    side_by_side = new or fields.flag("parallel_attn", default=True)
    norms = (fields.integer_or_none("num_ln_in_parallel_attn", 1, 2) or 2) if new else 1
    bias, alibi = fields.flag("bias", default=False), fields.flag("alibi", default=False)
    if not new:
        one = fields.flag("multi_query", default=True)
        fields = fields.assuming(num_key_value_heads=1) if one else fields.without("num_key_value_heads")
    spec = read_decoder(
        fields.with_default(max_position_embeddings=2048), "falcon", norm=Norm(1e-5, "layer", bias=True),
        eps="layer_norm_epsilon", activation="gelu", rope=None if alibi else {}, tied=True,
        attention=dict(qkv_bias=bias, o_bias=bias, layout="grouped"), feed_forward=dict(gated=False, bias=bias),
        ffn=4 * fields.integer("hidden_size", 1, 1 << 18), parallel=norms if side_by_side else 0,
        names=_names(side_by_side and norms == 2),
    )  # fmt: skip
    if not alibi:
        return spec
    # The slopes are added before the scores are scaled.
    return change_attention(
        spec, lambda i, a: replace(a, slopes=tuple(s * a.head_dim**-0.5 for s in bloom_slopes(a.heads)))
    )


def _names(two_norms: bool) -> Names:
    return modules(
        "transformer.h.{layer}.", embed="transformer.word_embeddings", final_norm="transformer.ln_f",
        attn_norm="ln_attn" if two_norms else "input_layernorm",
        ffn_norm="ln_mlp" if two_norms else "post_attention_layernorm",
        qkv="self_attention.query_key_value", o="self_attention.dense", up="mlp.dense_h_to_4h",
        down="mlp.dense_4h_to_h",
    )  # fmt: skip
