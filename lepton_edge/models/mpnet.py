"""MPNet (arXiv:2004.09297)."""

from .encoder import names, read_encoder
from .fields import Fields
from .heads import Form, architectures
from .spec import Distances, ModelSpec

__all__ = ["ARCHITECTURES", "read"]

NAMES = names(
    "mpnet.", q="attention.attn.q", k="attention.attn.k", v="attention.attn.v", o="attention.attn.o",
    attn_norm="attention.LayerNorm", distances="encoder.relative_attention_bias",
)  # fmt: skip
BUCKETS = 32  # transformers uses so many, whatever the config says
FIRST = 2  # the row of position 0, whatever the padding token is


def read(fields: Fields) -> ModelSpec:
    """The spec of an MPNetModel config: no segments, and numbers for distances that all layers share."""
    if fields.integer("relative_attention_num_buckets", 1, 1 << 20, default=BUCKETS) != BUCKETS:
        raise fields.unsupported("relative_attention_num_buckets", str(BUCKETS))
    return read_encoder(fields, "mpnet", names=NAMES, first_position=FIRST, segments=None,
                        attention=dict(distances=Distances(BUCKETS)))  # fmt: skip


ARCHITECTURES = architectures(
    "MPNet", read,
    classes=Form("classifier.out_proj", "classifier.dense", activation="tanh", pool="first"),
    tokens=Form("classifier"),
    span=Form("qa_outputs"),
    mask=Form("lm_head.decoder", "lm_head.dense", "lm_head.layer_norm"),
)  # fmt: skip
