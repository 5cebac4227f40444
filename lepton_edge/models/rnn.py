"""Stacks of LSTM or GRU layers between an embedding and a head, under PyTorch's names; `docs/recurrent.md` has the
config."""

from dataclasses import replace
from typing import Any

from .decoder import MAX_LAYERS, MAX_VOCAB, MAX_WIDTH
from .encoder import MAX_LABELS, with_head
from .fields import Fields
from .recurrent import Rnn
from .rope import MAX_POSITIONS
from .spec import Layer, ModelSpec, Names, Target

__all__ = ["read", "read_classes", "read_language", "read_seq2seq", "read_tokens"]

CELLS = ("lstm", "gru")
POOLINGS = ("last", "mean", "first")
MAX_LENGTH = 8192  # tokens of a text, where a config says nothing: an encoder has the activations of all at once
MAX_WRITTEN = 1 << 16


def read(fields: Fields) -> ModelSpec:
    """The spec of an RnnModel config: hidden states of whole sequences."""
    return _stack(fields)


def read_classes(fields: Fields) -> ModelSpec:
    """The spec of an RnnForSequenceClassification config."""
    pooling = fields.text("pooling", default="last")
    if pooling not in POOLINGS:
        raise fields.unsupported("pooling", ", ".join(POOLINGS))
    spec = _stack(fields)
    ends = pooling == "last" and fields.flag("bidirectional", default=False)
    return _with_head(spec, fields, "classes", pool="ends" if ends else pooling)


def read_tokens(fields: Fields) -> ModelSpec:
    """The spec of an RnnForTokenClassification config."""
    return _with_head(_stack(fields), fields, "tokens")


def read_language(fields: Fields) -> ModelSpec:
    """The spec of an RnnForCausalLM config."""
    _one_way(fields)
    return _decoder(_stack(fields), fields)


def read_seq2seq(fields: Fields) -> ModelSpec:
    """The spec of an RnnForSeq2Seq config: an encoder, whose last states the decoder, its `target`, begins with."""
    _one_way(fields)
    encoder = _stack(fields, "encoder.")
    own = {name.removeprefix("target_"): fields.integer(name, 1, most) for name, most in (
        ("target_vocab_size", MAX_VOCAB), ("target_embedding_size", MAX_WIDTH)) if fields.has(name)}  # fmt: skip
    decoder = _decoder(_stack(fields.assuming(**own), "decoder."), fields)
    last = decoder.vocab - 1
    labels = fields.numbered("id2label", MAX_LABELS) if fields.has("id2label") else ()
    if labels and len(labels) != decoder.vocab:
        raise fields.error("id2label", f"the names of all {decoder.vocab} tokens of the decoder")
    target = Target(
        decoder,
        start=fields.integer("decoder_start_token_id", 0, last),
        end=fields.integer("eos_token_id", 0, last),
        most=fields.integer("max_new_tokens", 1, MAX_WRITTEN, default=256),
        labels=labels,
    )
    return replace(encoder, target=target)


def _stack(fields: Fields, prefix: str = "") -> ModelSpec:
    """The embedding and the layers, as an encoder."""
    fields.refuse_quantized()
    if fields.text("cell") not in CELLS:
        raise fields.unsupported("cell", " or ".join(CELLS))
    if fields.integer("proj_size", 0, MAX_WIDTH, default=0):
        raise fields.unsupported("proj_size", "0")
    units = fields.integer("hidden_size", 1, MAX_WIDTH)
    width = fields.integer("embedding_size", 1, MAX_WIDTH, default=units)
    both, bias = fields.flag("bidirectional", default=False), fields.flag("bias", default=True)
    hidden = units * (2 if both else 1)
    first = Rnn(fields.text("cell"), width, units, both, bias)
    others = fields.integer("num_layers", 1, MAX_LAYERS, default=1) - 1
    return ModelSpec(
        family="rnn",
        vocab=fields.integer("vocab_size", 1, MAX_VOCAB),
        hidden=hidden,
        layers=(Layer(first, None), *[Layer(replace(first, inputs=hidden), None)] * others),
        context=fields.integer("max_length", 1, MAX_POSITIONS, default=MAX_LENGTH),
        embed_width=0 if width == hidden else width,
        norm_before=False,
        final_norm=False,
        causal=False,
        residual=False,
        names=_names(prefix),
    )


def _with_head(spec: ModelSpec, fields: Fields, kind: str, **options: Any) -> ModelSpec:
    return with_head(spec, fields, kind, bias=fields.flag("head_bias", default=True), **options)


def _decoder(spec: ModelSpec, fields: Fields) -> ModelSpec:
    """The same layers as a decoder.  A state has no positions, so nothing but counting them bounds the context."""
    tied = fields.flag("tie_word_embeddings", default=False)
    if tied and spec.embed_width:
        raise fields.error("tie_word_embeddings", f"false, where embedding_size is not hidden_size, {spec.hidden}")
    bias = fields.flag("head_bias", default=True)
    return replace(spec, causal=True, context=MAX_POSITIONS, tied=tied, head_bias=bias)


def _one_way(fields: Fields) -> None:
    if fields.flag("bidirectional", default=False):
        raise fields.unsupported("bidirectional", "false, where a decoder goes on with the states")


def _names(prefix: str) -> Names:
    """Ours -> PyTorch's: `rnn.weight_ih_l0`, and `_reverse` behind it for the direction from the end."""
    names = {"embed": f"{prefix}embedding", "head": "head"}
    for ours, name in (("w", "weight"), ("b", "bias")):
        for end, reverse in (("", ""), ("_back", "_reverse")):
            for kind in ("ih", "hh"):
                names[f"{ours}_{kind}{end}"] = f"{prefix}rnn.{name}_{kind}_l{{layer}}{reverse}="
    return Names(names)
