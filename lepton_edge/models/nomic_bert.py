"""Nomic's BERT (arXiv:2402.01613): of transformers 5, and with the config of nomic-embed-text-v1 and v1.5."""

from dataclasses import replace

from .encoder import names, read_encoder
from .fields import Fields
from .heads import Form, architectures
from .rope import read_rope
from .spec import ModelSpec

__all__ = ["ARCHITECTURES", "read"]

NAMES = names(
    "nomic_bert.", "encoder.layers.{layer}.", embed_norm="emb_ln", qkv="attn.Wqkv", o="attn.out_proj",
    attn_norm="norm1", gate="mlp.fc12", up="mlp.fc11", down="mlp.fc2", ffn_norm="norm2",
)  # fmt: skip
OWN = dict(
    hidden_size="n_embd", num_attention_heads="n_head", num_hidden_layers="n_layer", intermediate_size="n_inner",
    max_position_embeddings="n_positions", layer_norm_eps="layer_norm_epsilon", rope_theta="rotary_emb_base",
)  # fmt: skip
FIXED = {  # what nomic-embed-text's own config may not ask for
    "causal": False, "prenorm": False, "parallel_block": False, "use_rms_norm": False, "qkv_proj_bias": False,
    "mlp_fc1_bias": False, "mlp_fc2_bias": False, "rotary_emb_interleaved": False,
}  # fmt: skip


def read(fields: Fields) -> ModelSpec:
    """The spec of a NomicBertModel config: BERT's, with turned positions and gates, and without biases of products."""
    fields = fields.renamed(**OWN)
    for name, value in FIXED.items():
        if fields.flag(name, default=value) != value:
            raise fields.unsupported(name, str(value).lower())
    for name in ("num_experts", "rotary_scaling_factor", "rotary_emb_scale_base"):
        if fields.has(name):
            raise fields.unsupported(name, "null")
    if fields.number("rotary_emb_fraction", 0.0, 1.0, default=1.0) != 1.0:
        raise fields.unsupported("rotary_emb_fraction", "1.0")
    if fields.text("activation_function", default="swiglu") != "swiglu":
        raise fields.unsupported("activation_function", "swiglu")
    spec = read_encoder(fields, "nomic_bert", names=NAMES, activation="silu", positions=0, feed_forward=dict(
        bias=False, gated=True), attention=dict(qkv_bias=False, o_bias=False, layout="joined"))  # fmt: skip
    mixer = spec.attentions[0]
    if fields.integer("head_dim", 1, spec.hidden, default=mixer.head_dim) != mixer.head_dim:
        raise fields.unsupported("head_dim", "hidden_size / num_attention_heads")
    rope, context = read_rope(fields, mixer.head_dim, spec.context, theta=1000.0)
    layer = replace(spec.layers[0], mixer=replace(mixer, rope=rope))
    return replace(spec, layers=(layer,) * len(spec.layers), context=context)


ARCHITECTURES = architectures(
    "NomicBert", read,
    classes=Form("classifier", "nomic_bert.pooler.dense", activation="tanh", pool="first"),
    tokens=Form("classifier"),
    mask=Form("cls.predictions.decoder", "cls.predictions.transform.dense", "cls.predictions.transform.layer_norm",
              activation="silu", field="hidden_act"),
)  # fmt: skip
