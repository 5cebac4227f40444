"""RoBERTa (arXiv:1907.11692), XLM-RoBERTa (arXiv:1911.02116) and CamemBERT (arXiv:1911.03894)."""

from .decoder import MAX_VOCAB
from .encoder import names, read_encoder
from .fields import Fields
from .heads import Form, architectures
from .spec import ModelSpec

__all__ = ["ARCHITECTURES", "read"]


def read(fields: Fields) -> ModelSpec:
    """The spec of a RobertaModel config: BERT's, with positions behind the row of the padding token.

    As everywhere here, all tokens of a sequence count; transformers gives one that is the padding token no position.
    """
    if fields.text("position_embedding_type", default="absolute") != "absolute":
        raise fields.unsupported("position_embedding_type", "absolute")
    padding = fields.integer("pad_token_id", 0, MAX_VOCAB, default=1)
    return read_encoder(fields, "roberta", names=names("roberta."), first_position=padding + 1)


HEADS = dict(
    classes=Form("classifier.out_proj", "classifier.dense", activation="tanh", pool="first"),
    tokens=Form("classifier"),
    span=Form("qa_outputs"),
    mask=Form("lm_head.decoder", "lm_head.dense", "lm_head.layer_norm"),
)
ARCHITECTURES = {
    **architectures("Camembert", read, **HEADS),
    **architectures("Roberta", read, **HEADS),
    **architectures("XLMRoberta", read, **HEADS),
}
