"""ModernBERT (arXiv:2412.13663)."""

from dataclasses import replace

from .decoder import FULL, MAX_LAYERS, SLIDING, change_attention, read_kinds
from .encoder import names, read_encoder
from .fields import Fields
from .heads import Form, architectures
from .rope import MAX_POSITIONS, read_rope
from .spec import Attention, ModelSpec, Norm

__all__ = ["ARCHITECTURES", "read"]

NAMES = names(
    "model.", "layers.{layer}.", embed="embeddings.tok_embeddings", embed_norm="embeddings.norm", attn_norm="attn_norm",
    qkv="attn.Wqkv", o="attn.Wo", ffn_norm="mlp_norm", gate_up="mlp.Wi", down="mlp.Wo", final_norm="final_norm",
)  # fmt: skip
THETAS = {FULL: ("global_rope_theta", 160000.0), SLIDING: ("local_rope_theta", 10000.0)}


def read(fields: Fields) -> ModelSpec:
    """The spec of a ModernBertModel config: norms before, turned positions, every third layer sees the whole."""
    for name in ("rope_scaling", "sliding_window"):
        if fields.has(name):
            raise fields.unsupported(name, "none")
    qkv, mlp = (fields.flag(f"{part}_bias", default=False) for part in ("attention", "mlp"))
    spec = read_encoder(
        fields.renamed(hidden_act="hidden_activation"), "modernbert", names=NAMES, eps="norm_eps", segments=None,
        norm=Norm(1e-5, "layer", bias=fields.flag("norm_bias", default=False)), positions=0, norm_before=True,
        norm_sum=False, first_norm=False, final_norm=True, feed_forward=dict(bias=mlp, gated=True, joined=True),
        attention=dict(qkv_bias=qkv, o_bias=qkv, layout="joined"),
    )  # fmt: skip
    every = fields.integer("global_attn_every_n_layers", 1, MAX_LAYERS, default=3)
    kinds = [SLIDING if i % every else FULL for i in range(len(spec.layers))]
    if fields.has("layer_types"):
        kinds = read_kinds(fields, len(kinds), every)
    window = fields.integer("local_attention", 1, MAX_POSITIONS, default=128) // 2 + 1
    ropes = {kind: read_rope(fields.renamed(rope_theta=name), spec.attentions[0].head_dim, spec.context, theta=theta,
                             kind=kind)[0] for kind, (name, theta) in THETAS.items()}  # fmt: skip

    def change(i: int, mixer: Attention) -> Attention:
        return replace(mixer, rope=ropes[kinds[i]], window=window if kinds[i] == SLIDING else None)

    return change_attention(spec, change)


FORM = Form("classifier", "head.dense", "head.norm", field="classifier_activation", dense_bias="classifier_bias")
ARCHITECTURES = architectures(
    "ModernBert", read, classes=replace(FORM, pool="first"), tokens=FORM, span=FORM,
    mask=replace(FORM, head="decoder", bias="decoder_bias"),
)  # fmt: skip
_read_first = ARCHITECTURES["ModernBertForSequenceClassification"]


def read_classes(fields: Fields) -> ModelSpec:
    """The spec of a ModernBertForSequenceClassification config."""
    pool = fields.text("classifier_pooling", default="cls")
    if pool not in ("cls", "mean"):
        raise fields.unsupported("classifier_pooling", "cls, mean")
    spec = _read_first(fields)
    return replace(spec, head=spec.head and replace(spec.head, pool="mean" if pool == "mean" else "first"))


ARCHITECTURES["ModernBertForSequenceClassification"] = read_classes
