"""T5 (arXiv:1910.10683), its version 1.1 and Flan-T5, mT5 (arXiv:2010.11934) and ByT5 (arXiv:2105.13626)."""

from typing import Any

from .decoder import ACTIVATIONS, MAX_HEAD_DIM, MAX_HEADS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH
from .fields import Fields
from .pair import pair
from .rope import MAX_POSITIONS
from .spec import Attention, Distances, FeedForward, Layer, ModelSpec, Names, Norm

__all__ = ["read", "read_mt5"]

LEAST_CONTEXT = 4096  # distances have no end, and n_positions says only what the model was trained with


def read(fields: Fields, gated: str = "relu", family: str = "t5") -> ModelSpec:
    """The spec of a T5ForConditionalGeneration config.  gated: the default of feed_forward_proj."""
    fields.refuse_quantized()
    hidden, heads = fields.integer("d_model", 1, MAX_WIDTH), fields.integer("num_heads", 1, MAX_HEADS)
    head_dim = fields.integer("d_kv", 1, MAX_HEAD_DIM, default=64)
    layers = fields.integer("num_layers", 1, MAX_LAYERS)
    buckets = fields.integer("relative_attention_num_buckets", 4, 1 << 12, default=32)
    reach = fields.integer("relative_attention_max_distance", buckets + 1, 1 << 16, default=128)
    following = _feed_forward(fields, fields.text("feed_forward_proj", default=gated))
    context = fields.integer("n_positions", 1, MAX_POSITIONS, default=LEAST_CONTEXT)
    options: dict[str, Any] = dict(
        family=family, vocab=fields.integer("vocab_size", 1, MAX_VOCAB), hidden=hidden,
        context=max(context, LEAST_CONTEXT),
        norm=Norm(fields.number("layer_norm_epsilon", low=1e-30, high=1.0, default=1e-6)),
    )  # fmt: skip
    stacks: dict[str, dict[str, Any]] = {}
    for stack, sight in (("encoder", "whole"), ("decoder", "causal")):
        count = layers if sight == "whole" else fields.integer("num_decoder_layers", 1, MAX_LAYERS, default=layers)
        mixer = Attention(heads, heads, head_dim, scale=1.0, sight=sight,
                          distances=Distances(buckets, reach, both=sight == "whole"))  # fmt: skip
        stacks[stack] = dict(layers=(Layer(mixer, following),) * count, names=_names(stack, following.gated))
    scaled = fields.flag("scale_decoder_outputs", default=fields.flag("tie_word_embeddings", default=True))
    decoder = ModelSpec(
        **options, **stacks["decoder"], tied=True, logit_scale=hidden**-0.5 if scaled else 1.0,
        start=fields.integer("decoder_start_token_id", 0, options["vocab"] - 1, default=0),
    )  # fmt: skip
    return pair(ModelSpec(**options, **stacks["encoder"], causal=False), decoder)


def read_mt5(fields: Fields) -> ModelSpec:
    """The spec of an MT5ForConditionalGeneration config, whose head is apart."""
    return read(fields.with_default(tie_word_embeddings=False), "gated-gelu", "mt5")


def _feed_forward(fields: Fields, kind: str) -> FeedForward:
    gate, _, name = kind.rpartition("-")
    name = "gelu_new" if kind == "gated-gelu" else name
    if gate not in ("", "gated") or name not in ACTIVATIONS:
        raise fields.unsupported("feed_forward_proj", ", ".join([*ACTIVATIONS, *(f"gated-{n}" for n in ACTIVATIONS)]))
    return FeedForward(fields.integer("d_ff", 1, MAX_WIDTH), ACTIVATIONS[name], gated=bool(gate))


def _names(stack: str, gated: bool) -> Names:
    """T5's names of the parts of a stack, whose layers share the first one's table of distances."""
    block, last = f"{stack}.block.{{layer}}.layer.", 1 if stack == "encoder" else 2
    modules = {
        "embed": "shared", "final_norm": f"{stack}.final_layer_norm", "head": "lm_head",
        "distances": f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias",
        "attn_norm": f"{block}0.layer_norm", "cross_norm": f"{block}1.layer_norm",
        "ffn_norm": f"{block}{last}.layer_norm", "gate": f"{block}{last}.DenseReluDense.wi_0",
        "up": f"{block}{last}.DenseReluDense.wi" + ("_1" if gated else ""),
        "down": f"{block}{last}.DenseReluDense.wo",
    }  # fmt: skip
    for part in "qkvo":
        modules[part] = f"{block}0.SelfAttention.{part}"
        modules[f"cross_{part}"] = f"decoder.block.{{layer}}.layer.1.EncDecAttention.{part}"
    return Names(modules)
