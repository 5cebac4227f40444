"""GPT-2, and GPTBigCode (arXiv:2301.03988; StarCoder), which has one key head for all query heads."""

from dataclasses import replace

from ..checkpoint.stored import Stored
from .decoder import change_attention, modules, read_decoder
from .fields import Fields
from .spec import ModelSpec, Names, Norm

__all__ = ["FIELDS", "names_of", "read", "read_bigcode"]

FIELDS = dict(
    hidden_size="n_embd", num_hidden_layers="n_layer", num_attention_heads="n_head",
    max_position_embeddings="n_positions", intermediate_size="n_inner", hidden_act="activation_function",
)  # fmt: skip


def names_of(**others: str) -> Names:
    """GPT-2's names, and what differs from them."""
    names = dict(
        embed="transformer.wte", positions="transformer.wpe", attn_norm="ln_1", qkv="attn.c_attn", o="attn.c_proj",
        ffn_norm="ln_2", up="mlp.c_fc", down="mlp.c_proj", final_norm="transformer.ln_f",
    )  # fmt: skip
    return modules("transformer.h.{layer}.", **names | others)


def read(fields: Fields) -> ModelSpec:
    """The spec of a GPT2LMHeadModel config; its matrices are stored as [inputs, outputs]."""
    spec = _read(fields, "gpt2", "gelu_new", "joined")
    names = replace(names_of(), stored=dict.fromkeys(("qkv", "o", "up", "down"), Stored(transposed=True)))
    if fields.flag("scale_attn_by_inverse_layer_idx", default=False):
        spec = change_attention(spec, lambda i, a: replace(a, scale=(a.scale or a.head_dim**-0.5) / (i + 1)))
    return replace(spec, names=names)


def read_bigcode(fields: Fields) -> ModelSpec:
    """The spec of a GPTBigCodeForCausalLM config."""
    if fields.flag("multi_query", default=True):
        return _read(fields.assuming(num_key_value_heads=1), "gpt_bigcode", "gelu_pytorch_tanh", "joined")
    return _read(fields.without("num_key_value_heads"), "gpt_bigcode", "gelu_pytorch_tanh", "grouped")


def _read(fields: Fields, family: str, activation: str, layout: str) -> ModelSpec:
    if fields.flag("add_cross_attention", default=False):
        raise fields.unsupported("add_cross_attention", "false")
    fields = fields.renamed(**FIELDS)
    width = 4 * fields.integer("hidden_size", 1, 1 << 18)
    scale = None if fields.flag("scale_attn_weights", default=True) else 1.0
    spec = read_decoder(
        fields, family, norm=Norm(1e-5, "layer", bias=True), eps="layer_norm_epsilon", activation=activation, tied=True,
        attention=dict(qkv_bias=True, o_bias=True, layout=layout, scale=scale), ffn=width,
        feed_forward=dict(gated=False, bias=True), names=names_of(),
    )  # fmt: skip
    return replace(spec, positions=spec.context)
