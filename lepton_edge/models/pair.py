"""What encoder-decoders share: the fields of their configs under Bart's names, and the two specs made of them."""

import math
from dataclasses import replace
from typing import Any

from .decoder import MAX_HEADS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH, read_activation
from .fields import Fields
from .rope import MAX_POSITIONS
from .spec import Attention, FeedForward, Layer, ModelSpec, Names, Norm

__all__ = ["pair", "read_pair"]

MAX_COMPUTED = 1 << 16  # positions whose table is computed, and so in memory, whatever the file's size

LAYER = {
    "attn_norm": "self_attn_layer_norm", "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
    "o": "self_attn.out_proj", "cross_norm": "encoder_attn_layer_norm", "cross_q": "encoder_attn.q_proj",
    "cross_o": "encoder_attn.out_proj", "up": "fc1", "down": "fc2", "ffn_norm": "final_layer_norm",
}  # fmt: skip


def pair(encoder: ModelSpec, decoder: ModelSpec, **cross: Any) -> ModelSpec:
    """The decoder with its encoder, and attention to it in each layer, shaped like the layer's own but for `cross`."""
    attentions = [
        replace(mixer, sight="memory", prefix="cross_", distances=None, **cross) for mixer in decoder.attentions
    ]
    layers = tuple(
        replace(layer, cross=attention) for layer, attention in zip(decoder.layers, attentions, strict=True)
    )
    return replace(decoder, layers=layers, encoder=replace(encoder, memory=tuple(attentions)))


def read_pair(fields: Fields, family: str, *, tied: bool = True, start: int | None = None, shared: str = "",
              bias: bool = True, first_position: int = 0, **model: Any) -> ModelSpec:  # fmt: skip
    """The spec of an encoder-decoder with Bart's names: layer norms, biases everywhere.

    tied: the family's default.  start: the default of decoder_start_token_id.  shared: the name of the table that
    encoder and decoder share; "" where each has its own.  bias: whether logits have a bias.  model: options of both
    `ModelSpec`s.  Raises ConfigError or UnsupportedModelError.
    """
    fields.refuse_quantized()
    hidden = fields.integer("d_model", 1, MAX_WIDTH)
    most = MAX_COMPUTED if model.get("sinusoids") else MAX_POSITIONS
    positions = fields.integer("max_position_embeddings", 1, most, default=1024)
    scale = math.sqrt(hidden) if fields.flag("scale_embedding", default=False) else 1.0
    activation = read_activation(fields, "gelu", "activation_function")
    vocab = fields.integer("vocab_size", 1, MAX_VOCAB)
    options: dict[str, Any] = dict(
        family=family, hidden=hidden, context=positions, norm=Norm(1e-5, "layer", bias=True), embed_scale=scale,
        positions=positions + first_position, first_position=first_position,
    ) | model  # fmt: skip
    specs = {}
    for stack, sight in (("encoder", "whole"), ("decoder", "causal")):
        heads = fields.integer(f"{stack}_attention_heads", 1, MAX_HEADS)
        if hidden % heads:
            raise fields.error("d_model", f"a multiple of {stack}_attention_heads, {heads}")
        mixer = Attention(heads, heads, hidden // heads, sight=sight, qkv_bias=True, o_bias=True)
        width = fields.integer(f"{stack}_ffn_dim", 1, MAX_WIDTH)
        layer = Layer(mixer, FeedForward(width, activation, bias=True, gated=False))
        specs[stack] = ModelSpec(
            vocab=vocab if stack == "encoder" else fields.integer("decoder_vocab_size", 1, MAX_VOCAB, default=vocab),
            layers=(layer,) * fields.integer(f"{stack}_layers", 1, MAX_LAYERS), causal=stack == "decoder",
            names=_names(stack, shared), **options,
        )  # fmt: skip
    return pair(
        specs["encoder"],
        replace(specs["decoder"], tied=fields.flag("tie_word_embeddings", default=tied), head_bias=bias, bias_row=bias,
                start=fields.integer("decoder_start_token_id", 0, specs["decoder"].vocab - 1, default=start)),
    )  # fmt: skip


def _names(stack: str, shared: str) -> Names:
    """Bart's names of the parts of a stack."""
    place = f"model.{stack}."
    modules = {part: f"{place}layers.{{layer}}.{name}" for part, name in LAYER.items()}
    for part in ("k", "v"):
        modules[f"cross_{part}"] = f"model.decoder.layers.{{layer}}.encoder_attn.{part}_proj"
    modules |= {
        "embed": shared or f"{place}embed_tokens", "positions": f"{place}embed_positions",
        "embed_norm": f"{place}layernorm_embedding", "final_norm": f"{place}layer_norm", "head": "lm_head",
        "head.bias": "final_logits_bias",
    }  # fmt: skip
    return Names(modules)
