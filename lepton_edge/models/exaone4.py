"""EXAONE 4.0 (arXiv:2507.11407): norms behind, heads of q and k normed, positions on layers with windows only."""

from .decoder import modules, read_decoder, read_kinds, windows_of
from .fields import Fields
from .spec import ModelSpec, Norm

__all__ = ["read"]

NAMES = modules(attn_post_norm="post_attention_layernorm", ffn_post_norm="post_feedforward_layernorm")


def read(fields: Fields) -> ModelSpec:
    """The spec of an Exaone4ForCausalLM config."""
    norm = Norm(fields.number("rms_norm_eps", low=1e-30, high=1.0, default=1e-5))
    hybrid = fields.integer_or_null("sliding_window", 1, 1 << 24, default=4096) is not None
    return read_decoder(
        fields, "exaone4", norm=norm, rope=dict(everywhere=not hybrid), windows=_windows if hybrid else None,
        attention=dict(qk_norm=norm), norm_before=False, norm_after=True, names=NAMES,
    )  # fmt: skip


def _windows(fields: Fields, layers: int) -> tuple[int | None, ...]:
    """`layer_types`; or every n-th layer is full, n the number or the word's length in `sliding_window_pattern`."""
    name, every = "sliding_window_pattern", 4
    if fields.is_text(name) and not fields.has("layer_types"):
        word = fields.text(name)
        if word != "L" * (len(word) - 1) + "G":
            raise fields.unsupported(name, "a number, or a word such as LLLG")
        every = len(word)
    elif fields.has(name) and not fields.has("layer_types"):
        every = fields.integer(name, 1, 4096)
    return windows_of(fields, read_kinds(fields, layers, every), 4096)
