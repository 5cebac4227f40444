"""Lfm2: gated short convolutions on most layers, and attention with q and k norms on the others."""

from dataclasses import replace

from .decoder import MAX_WIDTH, modules, read_decoder
from .fields import Fields
from .recurrent import ShortConv
from .spec import ModelSpec, Norm

__all__ = ["read"]

MAX_TAPS = 64
NAMES = modules(
    attn_norm="operator_norm", ffn_norm="ffn_norm", o="self_attn.out_proj", q_norm="self_attn.q_layernorm",
    k_norm="self_attn.k_layernorm", conv="conv.conv", conv_in="conv.in_proj", conv_out="conv.out_proj",
    gate="feed_forward.w1", up="feed_forward.w3", down="feed_forward.w2", final_norm="model.embedding_norm",
)  # fmt: skip


def read(fields: Fields) -> ModelSpec:
    """The spec of an Lfm2ForCausalLM config; the first releases call some of its fields otherwise."""
    for usual, older in (("intermediate_size", "block_ff_dim"), ("tie_word_embeddings", "tie_embedding")):
        fields = fields.renamed(**{usual: older}) if fields.has(older) else fields
    norm = Norm(fields.number("norm_eps", low=1e-30, high=1.0, default=1e-5))
    spec = read_decoder(
        fields.assuming(intermediate_size=_width(fields)), "lfm2", norm=norm, eps="norm_eps", rope=dict(theta=1e6),
        attention=dict(qk_norm=norm), tied=True, names=NAMES,
    )  # fmt: skip
    conv = ShortConv(fields.integer("conv_L_cache", 1, MAX_TAPS, default=3), fields.flag("conv_bias", default=False))
    layers = zip(spec.layers, _convolves(fields, len(spec.layers)), strict=True)
    return replace(
        spec, layers=tuple(replace(layer, mixer=conv) if convolves else layer for layer, convolves in layers)
    )


def _convolves(fields: Fields, layers: int) -> list[bool]:
    """Which layers are convolutions: by `layer_types`, or those that `full_attn_idxs` does not list."""
    if fields.has("layer_types"):
        kinds = fields.texts("layer_types", layers)
        if not set(kinds) <= {"conv", "full_attention"}:
            raise fields.unsupported("layer_types", "conv, full_attention")
        return [kind == "conv" for kind in kinds]
    attention = fields.items("full_attn_idxs", default=list(range(layers)))
    if not all(type(i) is int and 0 <= i < layers for i in attention):
        raise fields.error("full_attn_idxs", f"numbers of layers, from 0 to {layers - 1}")
    return [i not in attention for i in range(layers)]


def _width(fields: Fields) -> int:
    """The feed-forward's width: two thirds of the field, times a factor, rounded up, unless the config says not to."""
    width = fields.integer("intermediate_size", 1, MAX_WIDTH, default=12288)
    if not fields.flag("block_auto_adjust_ff_dim", default=True):
        return width
    multiple = fields.integer("block_multiple_of", 1, MAX_WIDTH, default=256)
    factor = fields.number("block_ffn_dim_multiplier", low=1e-3, high=1e3, default=1.0)
    adjusted = int(factor * int(2 * width / 3))
    if not 0 < adjusted <= MAX_WIDTH:
        raise fields.error("block_ffn_dim_multiplier", f"a factor that leaves a width from 1 to {MAX_WIDTH}")
    return -(-adjusted // multiple) * multiple
