"""ELECTRA (arXiv:2003.10555)."""

from .decoder import MAX_WIDTH
from .encoder import names, read_encoder
from .fields import Fields
from .heads import Form, architectures
from .spec import ModelSpec

__all__ = ["ARCHITECTURES", "read"]


def read(fields: Fields) -> ModelSpec:
    """The spec of an ElectraModel config: BERT's, behind an embedding that may be narrower."""
    width = fields.integer("embedding_size", 1, MAX_WIDTH, default=128)
    if width == fields.integer("hidden_size", 1, MAX_WIDTH):
        width = 0
    return read_encoder(fields, "electra", names=names("electra.", project_in="embeddings_project"), embed_width=width,
                        embed_first=True, embed_bias=True)  # fmt: skip


ARCHITECTURES = architectures(
    "Electra", read,
    classes=Form("classifier.out_proj", "classifier.dense", pool="first"),
    tokens=Form("classifier"),
    span=Form("qa_outputs"),
    mask=Form("generator_lm_head", "generator_predictions.dense", "generator_predictions.LayerNorm"),
)  # fmt: skip
