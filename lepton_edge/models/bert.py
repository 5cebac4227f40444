"""BERT (arXiv:1810.04805)."""

from .encoder import names, read_activation, read_encoder, with_head
from .fields import Fields
from .spec import ModelSpec

__all__ = ["read", "read_answers", "read_classes", "read_mask", "read_tokens"]

HEAD = {"head": "classifier"}


def read(fields: Fields, **heads: str) -> ModelSpec:
    """The spec of a BertModel config.  heads: names of the parts of a head."""
    if fields.text("position_embedding_type", default="absolute") != "absolute":
        raise fields.unsupported("position_embedding_type", "absolute")
    return read_encoder(fields, "bert", names=names("bert.", **heads))


def read_classes(fields: Fields) -> ModelSpec:
    """The spec of a BertForSequenceClassification config: of the first token, through the pooler."""
    spec = read(fields, head_dense="bert.pooler.dense", **HEAD)
    return with_head(spec, fields, "classes", pool="first", dense="tanh")


def read_tokens(fields: Fields) -> ModelSpec:
    """The spec of a BertForTokenClassification config."""
    return with_head(read(fields, **HEAD), fields, "tokens")


def read_answers(fields: Fields) -> ModelSpec:
    """The spec of a BertForQuestionAnswering config."""
    return with_head(read(fields, head="qa_outputs"), fields, "span")


def read_mask(fields: Fields) -> ModelSpec:
    """The spec of a BertForMaskedLM config."""
    spec = read(fields, head_dense="cls.predictions.transform.dense", head_norm="cls.predictions.transform.LayerNorm",
                head="cls.predictions.decoder")  # fmt: skip
    return with_head(spec, fields, "mask", dense=read_activation(fields, "gelu"), dense_norm=True)
