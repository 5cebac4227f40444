"""ALBERT (arXiv:1909.11942)."""

from .decoder import MAX_WIDTH
from .encoder import names, read_encoder
from .fields import Fields
from .heads import Form, architectures
from .spec import ModelSpec

__all__ = ["ARCHITECTURES", "read"]

NAMES = names(
    "albert.", "encoder.albert_layer_groups.0.albert_layers.0.", project_in="encoder.embedding_hidden_mapping_in",
    q="attention.query", k="attention.key", v="attention.value", o="attention.dense", attn_norm="attention.LayerNorm",
    up="ffn", down="ffn_output", ffn_norm="full_layer_layer_norm",
)  # fmt: skip


def read(fields: Fields) -> ModelSpec:
    """The spec of an AlbertModel config: a narrow embedding, and layers that all have the same weights."""
    for name in ("num_hidden_groups", "inner_group_num"):
        if fields.integer(name, 0, 1 << 20, default=1) != 1:
            raise fields.unsupported(name, "1")
    width = fields.integer("embedding_size", 1, MAX_WIDTH, default=128)
    return read_encoder(fields, "albert", names=NAMES, activation="gelu_new", embed_width=width, embed_first=True,
                        embed_bias=True)  # fmt: skip


ARCHITECTURES = architectures(
    "Albert", read,
    classes=Form("classifier", "albert.pooler", activation="tanh", pool="first"),
    tokens=Form("classifier"),
    span=Form("qa_outputs"),
    mask=Form("predictions.decoder", "predictions.dense", "predictions.LayerNorm", activation="gelu_tanh",
              field="hidden_act"),
)  # fmt: skip
