"""RWKV 4 (arXiv:2305.13048), as transformers has it, and 7 (arXiv:2503.14456), as flash-linear-attention has it."""

from dataclasses import replace

from .decoder import MAX_HEAD_DIM, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH, modules
from .fields import Fields
from .recurrent import ChannelMix4, ChannelMix7, TimeMix4, TimeMix7
from .rope import MAX_POSITIONS
from .spec import Layer, ModelSpec, Names, Norm

__all__ = ["read4", "read7"]

LAYER_NORM = Norm(1e-5, "layer", bias=True)
NAMES_4 = modules(
    "rwkv.blocks.{layer}.", embed="rwkv.embeddings", embed_norm="rwkv.blocks.0.pre_ln", attn_norm="ln1", ffn_norm="ln2",
    time="attention", time_r="attention.receptance", time_k="attention.key", time_v="attention.value",
    time_o="attention.output", channel="feed_forward", channel_k="feed_forward.key", channel_v="feed_forward.value",
    channel_r="feed_forward.receptance", final_norm="rwkv.ln_out", head="head",
)  # fmt: skip
LOW_RANK = {f"time_{name}{i + 1}": f"attn.{name}_lora.lora.{2 * i}" for name in "wagv" for i in range(2)}
NAMES_7 = modules(
    embed="model.embeddings", embed_norm="model.layers.0.pre_norm", attn_norm="attn_norm", ffn_norm="ffn_norm",
    time="attn", time_r="attn.r_proj", time_k="attn.k_proj", time_v="attn.v_proj", time_o="attn.o_proj",
    time_norm="attn.g_norm", channel="ffn", channel_k="ffn.key", channel_v="ffn.value", **LOW_RANK,
)  # fmt: skip


def read4(fields: Fields) -> ModelSpec:
    """The spec of a RwkvForCausalLM config.

    `rescale_every` is not read: halving activations now and then only keeps half floats from overflowing.
    """
    hidden = fields.integer("hidden_size", 1, MAX_WIDTH)
    if fields.number("layer_norm_epsilon", low=0.0, high=1.0, default=1e-5) != LAYER_NORM.eps:
        raise fields.unsupported("layer_norm_epsilon", "1e-05, which the last norm has in any case")
    mixer = TimeMix4(fields.integer("attention_hidden_size", 1, MAX_WIDTH, default=hidden))
    width = fields.integer("intermediate_size", 1, MAX_WIDTH, default=4 * hidden)
    layers = (Layer(mixer, ChannelMix4(width)),) * fields.integer("num_hidden_layers", 1, MAX_LAYERS)
    return _spec(fields, "rwkv", hidden, layers, LAYER_NORM, NAMES_4)


def read7(fields: Fields) -> ModelSpec:
    """The spec of an RWKV7ForCausalLM config."""
    hidden = fields.integer("hidden_size", 1, MAX_WIDTH)
    head_dim = fields.integer("head_dim", 1, MAX_HEAD_DIM, default=64)
    if hidden % head_dim:
        raise fields.error("head_dim", f"a divisor of hidden_size, {hidden}")
    for name in ("norm_first", "norm_bias"):
        if not fields.flag(name, default=True):
            raise fields.unsupported(name, "true")
    if fields.has("attn"):
        raise fields.unsupported("attn", "null")
    if fields.text("hidden_act", default="sqrelu") != "sqrelu":
        raise fields.unsupported("hidden_act", "sqrelu")
    norm = replace(LAYER_NORM, eps=fields.number("norm_eps", low=1e-30, high=1.0, default=1e-5))
    ranks = {
        name: fields.integer(f"{name}_low_rank_dim", 1, MAX_WIDTH, default=_rank(hidden, factor, head_dim))
        for name, factor in (("decay", 2.5), ("a", 2.5), ("gate", 5.0), ("v", 1.7))
    }
    mixer = TimeMix7(hidden // head_dim, head_dim, ranks["decay"], ranks["a"], ranks["gate"], ranks["v"],
                     head_dim * norm.eps)  # fmt: skip
    ratio = fields.number("hidden_ratio", low=1 / hidden, high=MAX_WIDTH / hidden, default=4.0)
    width = fields.integer("intermediate_size", 1, MAX_WIDTH, default=-(-int(hidden * ratio) // 32) * 32)
    count = fields.integer("num_hidden_layers", 1, MAX_LAYERS)
    mixers = [replace(mixer, value_rank=0), *[mixer] * (count - 1)]
    layers = tuple(Layer(each, ChannelMix7(width)) for each in mixers)
    return _spec(fields, "rwkv7", hidden, layers, norm, NAMES_7)


def _spec(
    fields: Fields, family: str, hidden: int, layers: tuple[Layer, ...], norm: Norm, names: Names
) -> ModelSpec:  # fmt: skip
    """What both have.  A state has no positions, so nothing but counting them bounds the context."""
    fields.refuse_quantized()
    return ModelSpec(
        family, fields.integer("vocab_size", 1, MAX_VOCAB), hidden, layers, MAX_POSITIONS, norm,
        tied=fields.flag("tie_word_embeddings", default=False), embed_norm=True, names=names,
    )  # fmt: skip


def _rank(hidden: int, factor: float, head_dim: int) -> int:
    """What flash-linear-attention takes where a config names no rank; only gates do not grow with the heads."""
    scale = 1.0 if factor == 5.0 else head_dim / 64
    return max(32, round(factor * hidden**0.5 * scale / 32) * 32)
