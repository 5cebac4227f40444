"""Gemma (arXiv:2403.08295), Gemma 2 (arXiv:2408.00118: soft caps, windows, norms behind too) and the text part of
Gemma 3 (arXiv:2503.19786: norms of heads, two bases of rotary positions)."""

from dataclasses import replace
from typing import Any

from .decoder import alternating, modules, read_decoder
from .fields import Fields
from .spec import ModelSpec, Norm

__all__ = ["read", "read_gemma2", "read_gemma3"]

GELU = "gelu_pytorch_tanh"
AROUND = modules(
    attn_post_norm="post_attention_layernorm", ffn_norm="pre_feedforward_layernorm",
    ffn_post_norm="post_feedforward_layernorm",
)  # fmt: skip


def read(fields: Fields) -> ModelSpec:
    """The spec of a GemmaForCausalLM config."""
    # The first configs say `gelu` and mean its approximation; transformers 5 does not read the newer hidden_activation.
    act = fields.text("hidden_act", default=GELU)
    act = GELU if act == "gelu" else act
    if fields.text("hidden_activation", default=act) != act:
        raise fields.unsupported("hidden_activation", f"what hidden_act says, {act}")
    return _read(fields.assuming(hidden_act=act), "gemma", {})


def read_gemma2(fields: Fields) -> ModelSpec:
    """The spec of a Gemma2ForCausalLM config."""
    return _read_around(fields, "gemma2", {}, caps=(50.0, 30.0), windows=alternating(2))


def read_gemma3(fields: Fields) -> ModelSpec:
    """The spec of a Gemma3ForCausalLM config; transformers ignores a cap of its scores."""
    if fields.has("attn_logit_softcapping"):
        raise fields.unsupported("attn_logit_softcapping", "null")
    norm = Norm(fields.number("rms_norm_eps", low=1e-30, high=1.0, default=1e-6), plus_one=True)
    near = dict(base="rope_local_base_freq", kind="sliding_attention")
    return _read_around(fields, "gemma3", dict(qk_norm=norm), windows=alternating(6, "sliding_window_pattern"),
                        rope=dict(theta=1e6, kind="full_attention", local=near))  # fmt: skip


def _read_around(
    fields: Fields, family: str, attention: dict[str, Any], caps: tuple[float | None, float | None] = (None, None),
    **options: Any,
) -> ModelSpec:  # fmt: skip
    """What the newer two share: norms on both sides, a scale of the scores, caps of scores and logits."""
    fields = fields.renamed(hidden_act="hidden_activation")
    scale = fields.number("query_pre_attn_scalar", low=1e-6, high=1e9, default=256.0) ** -0.5
    cap, logit_cap = (fields.number_or_null(f"{part}_logit_softcapping", 1e-6, 1e6, default) or 0.0
                      for part, default in zip(("attn", "final"), caps, strict=True))  # fmt: skip
    return _read(fields, family, dict(scale=scale, cap=cap, **attention), norm_after=True, names=AROUND,
                 logit_cap=logit_cap, **options)  # fmt: skip


def _read(fields: Fields, family: str, attention: dict[str, Any], **options: Any) -> ModelSpec:
    """What the three share: weights of norms less one, a scaled embedding, a gated gelu, one table."""
    if fields.flag("use_bidirectional_attention", default=False):
        raise fields.unsupported("use_bidirectional_attention", "false")
    bias = fields.flag("attention_bias", default=False)
    spec = read_decoder(
        fields.with_default(head_dim=256), family, norm=Norm(plus_one=True), activation=GELU, tied=True,
        attention=dict(qkv_bias=bias, o_bias=bias, **attention), **{"rope": {}, **options},
    )  # fmt: skip
    return replace(spec, embed_scale=spec.hidden**0.5)
