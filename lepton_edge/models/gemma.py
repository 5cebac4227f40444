"""Gemma (arXiv:2403.08295), Gemma 2 (arXiv:2408.00118: soft caps, windows, norms behind too) and the text part of
Gemma 3 (arXiv:2503.19786: norms of heads, two bases of rotary positions)."""

from dataclasses import replace
from typing import Any

from .decoder import change_attention, modules, read_decoder, read_kinds, windows_of
from .fields import Fields
from .rope import read_rope
from .spec import Attention, DecoderSpec, Norm

__all__ = ["read", "read_gemma2", "read_gemma3"]

AROUND = modules(
    attn_post_norm="post_attention_layernorm", ffn_norm="pre_feedforward_layernorm",
    ffn_post_norm="post_feedforward_layernorm",
)  # fmt: skip


def read(fields: Fields) -> DecoderSpec:
    """The spec of a GemmaForCausalLM config."""
    # An older field, hidden_act, is `gelu` in the first configs; the models were trained with what the newer one says.
    fields = fields.renamed(hidden_act="hidden_activation") if fields.has("hidden_activation") else fields
    return _read(fields.with_default(head_dim=256), "gemma", {})


def read_gemma2(fields: Fields) -> DecoderSpec:
    """The spec of a Gemma2ForCausalLM config."""
    fields = fields.renamed(hidden_act="hidden_activation").with_default(head_dim=256)
    caps = [fields.number_or_null(f"{part}_logit_softcapping", 0.0, 1e6, default) or 0.0
            for part, default in (("attn", 50.0), ("final", 30.0))]  # fmt: skip
    kinds = read_kinds(fields, fields.integer("num_hidden_layers", 1, 4096), 2)
    spec = _read(fields, "gemma2", dict(cap=caps[0], scale=_scale(fields)), norm_after=True, names=AROUND,
                 windows=lambda f, n: windows_of(f, kinds, 4096))  # fmt: skip
    return replace(spec, logit_cap=caps[1])


def read_gemma3(fields: Fields) -> DecoderSpec:
    """The spec of a Gemma3ForCausalLM config."""
    fields = fields.renamed(hidden_act="hidden_activation").with_default(head_dim=256)
    for cap in ("attn_logit_softcapping", "final_logit_softcapping"):
        if fields.has(cap):
            raise fields.unsupported(cap, "null")
    layers = fields.integer("num_hidden_layers", 1, 4096)
    kinds = read_kinds(fields, layers, fields.integer("sliding_window_pattern", 1, 4096, default=6))
    norm = Norm(fields.number("rms_norm_eps", low=1e-30, high=1.0, default=1e-6), plus_one=True)
    full = dict(theta=1e6, kind="full_attention")
    spec = _read(fields, "gemma3", dict(scale=_scale(fields), qk_norm=norm), norm_after=True, names=AROUND,
                 windows=lambda f, n: windows_of(f, kinds, 4096), rope=full)  # fmt: skip
    local = fields.renamed(rope_theta="rope_local_base_freq").without("rope_scaling")
    near, _ = read_rope(local, spec.attentions[0].head_dim, spec.context, kind="sliding_attention")

    def by_kind(i: int, attention: Attention) -> Attention:
        return attention if kinds[i] == "full_attention" else replace(attention, rope=near)

    return change_attention(spec, by_kind)


def _read(fields: Fields, family: str, attention: dict[str, Any], **options: Any) -> DecoderSpec:
    """What the three share: weights of norms less one, a scaled embedding, a gated gelu, one table."""
    if fields.flag("use_bidirectional_attention", default=False):
        raise fields.unsupported("use_bidirectional_attention", "false")
    bias = fields.flag("attention_bias", default=False)
    spec = read_decoder(
        fields, family, norm=Norm(plus_one=True), activation="gelu_pytorch_tanh", tied=True,
        attention=dict(qkv_bias=bias, o_bias=bias, **attention), **{"rope": {}, **options},
    )  # fmt: skip
    return replace(spec, embed_scale=spec.hidden**0.5)


def _scale(fields: Fields) -> float:
    return fields.number("query_pre_attn_scalar", low=1e-6, high=1e9, default=256.0) ** -0.5
