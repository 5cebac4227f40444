"""SmolLM3: Llama without rotary positions on every fourth layer (arXiv:2501.18795)."""

from dataclasses import replace

from .decoder import change_attention, read_decoder, read_kinds, windows_of
from .fields import Fields
from .spec import Attention, ModelSpec

__all__ = ["read"]


def read(fields: Fields) -> ModelSpec:
    """The spec of a SmolLM3ForCausalLM config."""
    bias = fields.flag("attention_bias", default=False)
    spec = read_decoder(
        fields, "smollm3", rope=dict(theta=2e6), tied=True, attention=dict(qkv_bias=bias, o_bias=bias),
        feed_forward=dict(bias=fields.flag("mlp_bias", default=False)),
    )  # fmt: skip
    layers = len(spec.layers)
    every = fields.integer("no_rope_layer_interval", 1, 1 << 20, default=4)
    # The field's name is older than its meaning: 1 stands for a layer with rotary positions.
    turned = [(i + 1) % every != 0 for i in range(layers)]
    if fields.has("no_rope_layers"):
        turned = fields.flags("no_rope_layers", layers)
    windows = windows_of(fields, read_kinds(fields, layers, 0))
    if not fields.has("layer_types") and fields.flag("use_sliding_window", default=False):
        window = fields.integer_or_none("sliding_window", 1, 1 << 24)
        windows = tuple(None if here else window for here in turned)

    def change(i: int, attention: Attention) -> Attention:
        return replace(attention, rope=attention.rope if turned[i] else None, window=windows[i])

    return change_attention(spec, change)
