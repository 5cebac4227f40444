"""MPT: GPT-2's layers without biases, with ALiBi."""

from dataclasses import replace

from .alibi import mpt_slopes
from .decoder import change_attention, modules, read_decoder
from .fields import Fields
from .spec import DecoderSpec, Norm

__all__ = ["read"]

NAMES = modules(
    "transformer.blocks.{layer}.", embed="transformer.wte", final_norm="transformer.norm_f", attn_norm="norm_1",
    ffn_norm="norm_2", qkv="attn.Wqkv", o="attn.out_proj", up="ffn.up_proj", down="ffn.down_proj",
)  # fmt: skip


def read(fields: Fields) -> DecoderSpec:
    """The spec of an MptForCausalLM config."""
    attention = fields.child("attn_config")
    for place, name, default, only in (
        (attention, "alibi", True, True), (attention, "qk_ln", False, False), (attention, "prefix_lm", False, False),
        (fields, "no_bias", True, True),
    ):  # fmt: skip
        if place.flag(name, default=default) != only:
            raise place.unsupported(name, str(only).lower())
    if fields.has("logit_scale"):
        raise fields.unsupported("logit_scale", "null")
    if attention.has("kv_n_heads"):
        raise attention.unsupported("kv_n_heads", "null")
    fields = fields.renamed(hidden_size="d_model", num_hidden_layers="n_layers", num_attention_heads="n_heads",
                            max_position_embeddings="max_seq_len")  # fmt: skip
    ratio = fields.integer("expansion_ratio", 1, 64, default=4)
    scale = attention.number_or_null("softmax_scale", 1e-9, 1e9, None)
    clip = attention.number_or_null("clip_qkv", 0.0, 1e9, None) or 0.0
    spec = read_decoder(
        fields, "mpt", norm=Norm(1e-5, "layer"), eps="layer_norm_epsilon", activation="gelu",
        ffn=ratio * fields.integer("hidden_size", 1, 1 << 14), attention=dict(layout="joined", scale=scale, clip=clip),
        feed_forward=dict(gated=False), tied=True, names=NAMES,
    )  # fmt: skip
    largest = attention.number("alibi_bias_max", low=0.01, high=1000.0, default=8.0)
    return change_attention(spec, lambda i, a: replace(a, slopes=mpt_slopes(a.heads, largest)))
