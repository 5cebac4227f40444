"""BERT (arXiv:1810.04805)."""

from .encoder import names, read_encoder
from .fields import Fields
from .heads import Form, architectures
from .spec import ModelSpec

__all__ = ["ARCHITECTURES", "read"]


def read(fields: Fields) -> ModelSpec:
    """The spec of a BertModel config."""
    if fields.text("position_embedding_type", default="absolute") != "absolute":
        raise fields.unsupported("position_embedding_type", "absolute")
    return read_encoder(fields, "bert", names=names("bert."))


ARCHITECTURES = architectures(
    "Bert", read,
    classes=Form("classifier", "bert.pooler.dense", activation="tanh", pool="first"),
    tokens=Form("classifier"),
    span=Form("qa_outputs"),
    mask=Form("cls.predictions.decoder", "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm",
              field="hidden_act"),
)  # fmt: skip
