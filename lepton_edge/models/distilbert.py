"""DistilBERT (arXiv:1910.01108)."""

from .encoder import names, read_encoder
from .fields import Fields
from .heads import Form, architectures
from .spec import ModelSpec

__all__ = ["ARCHITECTURES", "read"]

NAMES = names(
    "distilbert.", "transformer.layer.{layer}.", q="attention.q_lin", k="attention.k_lin", v="attention.v_lin",
    o="attention.out_lin", attn_norm="sa_layer_norm", up="ffn.lin1", down="ffn.lin2", ffn_norm="output_layer_norm",
)  # fmt: skip


def read(fields: Fields) -> ModelSpec:
    """The spec of a DistilBertModel config: no segments; `sinusoidal_pos_embds` are stored like learned positions."""
    fields = fields.renamed(hidden_size="dim", num_attention_heads="n_heads", num_hidden_layers="n_layers",
                            intermediate_size="hidden_dim", hidden_act="activation")  # fmt: skip
    return read_encoder(fields.without("layer_norm_eps"), "distilbert", names=NAMES, segments=None)


ARCHITECTURES = architectures(
    "DistilBert", read,
    classes=Form("classifier", "pre_classifier", activation="relu", pool="first"),
    tokens=Form("classifier"),
    span=Form("qa_outputs"),
    mask=Form("vocab_projector", "vocab_transform", "vocab_layer_norm", field="activation"),
)  # fmt: skip
