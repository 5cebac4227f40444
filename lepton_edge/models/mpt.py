"""MPT: GPT-2's layers with ALiBi, and without biases, unless the config says otherwise."""

from dataclasses import replace

from .alibi import mpt_slopes
from .decoder import change_attention, modules, read_decoder
from .fields import Fields
from .spec import ModelSpec, Norm

__all__ = ["read"]

NAMES = modules(
    "transformer.blocks.{layer}.", embed="transformer.wte", positions="transformer.wpe",
    final_norm="transformer.norm_f", attn_norm="norm_1", ffn_norm="norm_2", qkv="attn.Wqkv", o="attn.out_proj",
    up="ffn.up_proj", down="ffn.down_proj",
)  # fmt: skip
NORMS = "low_precision_layernorm", "layernorm"  # the same but for the precision


def read(fields: Fields) -> ModelSpec:
    """The spec of an MptForCausalLM config, with the meaning of the authors' own code, MPTForCausalLM.

    transformers runs all of them with ALiBi and without biases and a factor of the logits.
    """
    attention, norm = fields.child("attn_config"), fields.text("norm_type", default=NORMS[0])
    for name in ("qk_ln", "qk_gn", "prefix_lm", "rope"):
        if attention.flag(name, default=False):
            raise attention.unsupported(name, "false")
    if attention.text("attn_type", default="multihead_attention") != "multihead_attention":
        raise attention.unsupported("attn_type", "multihead_attention")
    if attention.has("kv_n_heads"):
        raise attention.unsupported("kv_n_heads", "null")
    if norm not in NORMS:
        raise fields.unsupported("norm_type", ", ".join(NORMS))
    fields = fields.renamed(hidden_size="d_model", num_hidden_layers="n_layers", num_attention_heads="n_heads",
                            max_position_embeddings="max_seq_len")  # fmt: skip
    hidden, bias = fields.integer("hidden_size", 1, 1 << 14), not fields.flag("no_bias", default=True)
    spec = read_decoder(
        fields, "mpt", norm=Norm(1e-5, "layer", bias=bias), eps="layer_norm_epsilon", activation="gelu", tied=True,
        attention=dict(layout="joined", scale=attention.number_or_null("softmax_scale", 1e-9, 1e9, None),
                       clip=attention.number_or_null("clip_qkv", 0.0, 1e9, None) or 0.0, qkv_bias=bias, o_bias=bias),
        feed_forward=dict(gated=False, bias=bias), ffn=fields.integer("expansion_ratio", 1, 64, default=4) * hidden,
        names=NAMES, logit_scale=_logit_scale(fields, hidden),
    )  # fmt: skip
    if attention.flag("alibi", default=True):
        largest = attention.number("alibi_bias_max", low=0.01, high=1000.0, default=8.0)
        return change_attention(spec, lambda i, a: replace(a, slopes=mpt_slopes(a.heads, largest)))
    return replace(spec, positions=spec.context if fields.flag("learned_pos_emb", default=True) else 0)


def _logit_scale(fields: Fields, hidden: int) -> float:
    """A number, or the word for one."""
    if not fields.is_text("logit_scale"):
        return fields.number("logit_scale", low=1e-9, high=1e9, default=1.0)
    if fields.text("logit_scale") != "inv_sqrt_d_model":
        raise fields.unsupported("logit_scale", "a number, inv_sqrt_d_model")
    return hidden**-0.5
