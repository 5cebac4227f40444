"""DeBERTa v2 and v3 (arXiv:2006.03654, arXiv:2111.09543)."""

from typing import Any

from .encoder import names, read_encoder
from .fields import Fields
from .heads import Form, architectures
from .rope import MAX_POSITIONS
from .spec import Disentangled, ModelSpec, Norm

__all__ = ["ARCHITECTURES", "read"]

NAMES = names(
    "deberta.", q="attention.self.query_proj", k="attention.self.key_proj", v="attention.self.value_proj",
    rel="encoder.rel_embeddings", rel_norm="encoder.LayerNorm",
)  # fmt: skip
SAME = ("embedding_size", "pooler_hidden_size")  # as hidden_size
TYPES = ("c2p", "p2c")
MAX_BUCKETS = 1 << 12  # bounds what a token needs in memory


def read(fields: Fields) -> ModelSpec:
    """The spec of a DebertaV2Model config: no segments by default, and scores that know of distances."""
    for name in SAME:
        if fields.has(name) and fields.integer(name, 1, 1 << 30) != fields.integer("hidden_size", 1, 1 << 30):
            raise fields.unsupported(name, "as hidden_size")
    if fields.integer("conv_kernel_size", 0, 1 << 20, default=0):
        raise fields.unsupported("conv_kernel_size", "0")
    types = _types(fields)
    heads = fields.integer("num_attention_heads", 1, 1 << 20)
    head_dim = fields.integer("hidden_size", 1, 1 << 30) // heads
    if fields.integer("attention_head_size", 1, 1 << 20, default=head_dim) != head_dim:
        raise fields.unsupported("attention_head_size", "hidden_size / num_attention_heads")
    attention = dict(scale=(max(head_dim, 1) * (1 + len(types))) ** -0.5, disentangled=_distances(fields, types))
    rest: dict[str, Any] = {} if fields.flag("position_biased_input", default=True) else dict(positions=0)
    return read_encoder(fields, "deberta-v2", names=NAMES, norm=Norm(1e-7, "layer", bias=True), attention=attention,
                        segments=0, **rest)  # fmt: skip


def _types(fields: Fields) -> set[str]:
    """Which terms the scores have besides what query and key say of each other."""
    if fields.is_text("pos_att_type"):
        types = [kind.strip() for kind in fields.text("pos_att_type").lower().split("|")]
    else:
        types = fields.items("pos_att_type", [])
    return {kind for kind in TYPES if kind in types}


def _distances(fields: Fields, types: set[str]) -> Disentangled | None:
    """The terms that know of distances."""
    if not fields.flag("relative_attention", default=False) or not types:
        return None
    if not fields.flag("share_att_key", default=False):
        raise fields.unsupported("share_att_key", "true")
    reach = fields.integer("max_relative_positions", -1, MAX_POSITIONS, default=-1)
    if reach < 1:
        reach = fields.integer("max_position_embeddings", 1, MAX_POSITIONS)
    buckets = fields.integer("position_buckets", -1, MAX_BUCKETS, default=-1)
    if buckets < 1 and reach > MAX_BUCKETS:
        raise fields.error("position_buckets", f"a number, for more than {MAX_BUCKETS} distances")
    if not 0 < buckets // 2 < reach - 1 and buckets > 0:
        raise fields.error("position_buckets", f"at least 2, and less than twice the {reach} distances told apart, - 2")
    norms = [kind.strip() for kind in fields.text("norm_rel_ebd", default="none").lower().split("|")]
    eps = fields.number("layer_norm_eps", low=1e-30, high=1.0, default=1e-7)
    norm = Norm(eps, "layer", bias=True) if "layer_norm" in norms else None
    return Disentangled(buckets if buckets > 0 else reach, reach if buckets > 0 else 0, "c2p" in types, "p2c" in types,
                        norm)  # fmt: skip


MASK = "DebertaV2ForMaskedLM"
OLD, NEW = (
    Form(f"{place}.decoder", f"{place}{inner}.dense", f"{place}{inner}.LayerNorm", field="hidden_act")
    for place, inner in (("cls.predictions", ".transform"), ("lm_predictions.lm_head", ""))
)
ARCHITECTURES = architectures(
    "DebertaV2", read,
    classes=Form("classifier", "pooler.dense", field="pooler_hidden_act", pool="first"),
    tokens=Form("classifier"),
    span=Form("qa_outputs"),
    mask=OLD,
)  # fmt: skip
READERS = {legacy: architectures("DebertaV2", read, mask=form)[MASK] for legacy, form in ((True, OLD), (False, NEW))}


def read_mask(fields: Fields) -> ModelSpec:
    """The spec of a DebertaV2ForMaskedLM config: the newer head, of deberta-v3, always reads the embedding's table."""
    legacy = fields.flag("legacy", default=True)
    return READERS[legacy](fields if legacy else fields.assuming(tie_word_embeddings=True))


ARCHITECTURES[MASK] = read_mask
