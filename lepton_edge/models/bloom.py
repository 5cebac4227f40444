"""BLOOM (arXiv:2211.05100): GPT-NeoX's layers one after the other, with ALiBi and a normed embedding."""

from dataclasses import replace

from .alibi import bloom_slopes
from .decoder import change_attention, modules, read_decoder
from .fields import Fields
from .spec import ModelSpec, Norm

__all__ = ["read"]

NAMES = modules(
    "transformer.h.{layer}.", embed="transformer.word_embeddings", embed_norm="transformer.word_embeddings_layernorm",
    final_norm="transformer.ln_f", attn_norm="input_layernorm", ffn_norm="post_attention_layernorm",
    qkv="self_attention.query_key_value", o="self_attention.dense", up="mlp.dense_h_to_4h", down="mlp.dense_4h_to_h",
)  # fmt: skip


def read(fields: Fields) -> ModelSpec:
    """The spec of a BloomForCausalLM config."""
    if fields.flag("apply_residual_connection_post_layernorm", default=False):
        raise fields.unsupported("apply_residual_connection_post_layernorm", "false")
    fields = fields.renamed(hidden_size="n_embed", num_hidden_layers="n_layer", num_attention_heads="n_head",
                            max_position_embeddings="seq_length")  # fmt: skip
    spec = read_decoder(
        fields.with_default(max_position_embeddings=2048), "bloom", norm=Norm(1e-5, "layer", bias=True),
        eps="layer_norm_epsilon", activation="gelu_pytorch_tanh",
        attention=dict(qkv_bias=True, o_bias=True, layout="grouped"),
        ffn=4 * fields.integer("hidden_size", 1, 1 << 18), feed_forward=dict(gated=False, bias=True), tied=True,
        embed_norm=True, names=NAMES,
    )  # fmt: skip
    return change_attention(spec, lambda i, attention: replace(attention, slopes=bloom_slopes(attention.heads)))
