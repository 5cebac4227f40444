"""What all encoder families share: the fields of their configs, under BERT's names, and their heads."""

from dataclasses import replace
from typing import Any

from .decoder import MAX_HEAD_DIM, MAX_HEADS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH, read_activation
from .fields import Fields
from .rope import MAX_POSITIONS
from .spec import Attention, FeedForward, Head, Layer, ModelSpec, Names, Norm

__all__ = ["MAX_LABELS", "names", "read_encoder", "read_labels", "with_head"]

MAX_LABELS = 1 << 16
MAX_SEGMENTS = 1 << 10

OUTER = {"embed", "positions", "segments", "embed_norm", "project_in", "final_norm", "rel", "rel_norm", "distances"}
HEADS = {"head_dense", "head_norm", "head"}

BERT = {
    "embed": "embeddings.word_embeddings", "positions": "embeddings.position_embeddings",
    "segments": "embeddings.token_type_embeddings", "embed_norm": "embeddings.LayerNorm",
    "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value",
    "o": "attention.output.dense", "attn_norm": "attention.output.LayerNorm", "up": "intermediate.dense",
    "down": "output.dense", "ffn_norm": "output.LayerNorm",
}  # fmt: skip


def names(prefix: str, layer: str = "encoder.layer.{layer}.", **own: str) -> Names:
    """BERT's names with a family's own ones; all but those of heads follow `prefix`, and those of a layer `layer`."""
    modules = {}
    for part, name in {**BERT, **own}.items():
        place = "" if part in HEADS else prefix if part in OUTER else prefix + layer
        modules[part] = place + name
    return Names(modules)


def read_encoder(
    fields: Fields,
    family: str,
    *,
    names: Names,
    norm: Norm | None = None,
    eps: str = "layer_norm_eps",
    activation: str = "gelu",
    attention: dict[str, Any] | None = None,
    feed_forward: dict[str, Any] | None = None,
    first_position: int = 0,
    segments: int | None = 2,
    **model: Any,
) -> ModelSpec:
    """The spec of an encoder with BERT's field names: norms of sums, learned positions, biases everywhere.

    norm: its kind; `eps` names the field with its epsilon.  attention, feed_forward: options of `Attention` and
    `FeedForward`.  first_position: the row of position 0.  segments: the default of type_vocab_size, which may be 0
    where that is; None: no such table.  model: options of `ModelSpec`.  Raises ConfigError or UnsupportedModelError.
    """
    fields.refuse_quantized()
    if fields.flag("is_decoder", default=False) or fields.flag("add_cross_attention", default=False):
        raise fields.unsupported("is_decoder", "false")
    hidden, layers = fields.integer("hidden_size", 1, MAX_WIDTH), fields.integer("num_hidden_layers", 1, MAX_LAYERS)
    heads = fields.integer("num_attention_heads", 1, MAX_HEADS)
    if hidden % heads or hidden // heads > MAX_HEAD_DIM:
        raise fields.error("hidden_size", f"a multiple of num_attention_heads, {heads}, at most {MAX_HEAD_DIM} times")
    mixer = Attention(heads, heads, hidden // heads, sight="whole",
                      **{"qkv_bias": True, "o_bias": True, **(attention or {})})  # fmt: skip
    following = FeedForward(fields.integer("intermediate_size", 1, MAX_WIDTH), read_activation(fields, activation),
                            **{"bias": True, "gated": False, **(feed_forward or {})})  # fmt: skip
    norm = norm or Norm(1e-12, "layer", bias=True)
    positions = fields.integer("max_position_embeddings", first_position + 1, MAX_POSITIONS)
    epsilon = fields.number(eps, low=1e-30, high=1.0, default=norm.eps)
    kinds = 0 if segments is None else fields.integer("type_vocab_size", min(segments, 1), MAX_SEGMENTS, segments)
    options: dict[str, Any] = dict(
        positions=positions, norm_before=False, norm_sum=True, embed_norm=True, final_norm=False,
    )  # fmt: skip
    return ModelSpec(
        family=family,
        vocab=fields.integer("vocab_size", 1, MAX_VOCAB),
        hidden=hidden,
        layers=(Layer(mixer, following),) * layers,
        context=positions - first_position,
        norm=replace(norm, eps=epsilon),
        causal=False,
        first_position=first_position,
        segments=kinds,
        names=names,
        **{**options, **model},
    )


def with_head(spec: ModelSpec, fields: Fields, kind: str, *, pool: str = "each", **options: Any) -> ModelSpec:
    """The spec with a head (see `Head`) as the config's labels say, or for a masked token.

    options: of `Head`.
    """
    if kind == "mask":
        tied = fields.flag("tie_word_embeddings", default=True)
        return replace(spec, head=Head(spec.vocab, kind, tied=tied, **options))
    if kind == "span":
        return replace(spec, head=Head(2, kind, **options))
    labels = read_labels(fields)
    problem = fields.text("problem_type", default="") == "multi_label_classification"
    return replace(spec, head=Head(len(labels), kind, pool, labels=labels, several=problem, **options))


def read_labels(fields: Fields) -> tuple[str, ...]:
    """The names of a classifier's outputs: `id2label`, else LABEL_0, LABEL_1, … (`num_labels`, 2 by default)."""
    if not fields.has("id2label"):
        return tuple(f"LABEL_{i}" for i in range(fields.integer("num_labels", 1, MAX_LABELS, default=2)))
    return fields.numbered("id2label", MAX_LABELS)
