"""OPT (arXiv:2205.01068): learned positions from row 2 on, and an embedding that may be narrower than the model; the
one of 350M norms sums. Galactica (arXiv:2211.09085) is an OPT without biases and weights of norms."""

from dataclasses import replace

from .decoder import MAX_WIDTH, modules, read_decoder
from .fields import Fields
from .spec import ModelSpec, Norm

__all__ = ["read"]

NAMES = modules(
    "model.decoder.layers.{layer}.", embed="model.decoder.embed_tokens", positions="model.decoder.embed_positions",
    project_in="model.decoder.project_in", project_out="model.decoder.project_out",
    final_norm="model.decoder.final_layer_norm", attn_norm="self_attn_layer_norm", ffn_norm="final_layer_norm",
    q="self_attn.q_proj", k="self_attn.k_proj", v="self_attn.v_proj", o="self_attn.out_proj", up="fc1", down="fc2",
)  # fmt: skip


def read(fields: Fields) -> ModelSpec:
    """The spec of an OPTForCausalLM config."""
    fields = fields.renamed(intermediate_size="ffn_dim", hidden_act="activation_function")
    bias, affine = fields.flag("enable_bias", default=True), fields.flag("layer_norm_elementwise_affine", default=True)
    before = fields.flag("do_layer_norm_before", default=True)
    spec = read_decoder(
        fields, "opt", norm=Norm(1e-5, "layer", weight=affine, bias=affine), activation="relu", names=NAMES, tied=True,
        attention=dict(qkv_bias=bias, o_bias=bias), feed_forward=dict(gated=False, bias=bias), first_position=2,
        norm_before=before, norm_sum=not before,
        final_norm=before and not fields.flag("_remove_final_layer_norm", default=False),
    )  # fmt: skip
    width = fields.integer("word_embed_proj_dim", 1, MAX_WIDTH, default=spec.hidden)
    return replace(spec, positions=spec.context + 2, embed_width=0 if width == spec.hidden else width)
