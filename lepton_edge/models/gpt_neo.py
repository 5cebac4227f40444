"""GPT-Neo: GPT-2 with windows on some layers, and scores that are not scaled."""

from dataclasses import replace

from .decoder import change_attention, read_decoder
from .fields import Fields
from .gpt2 import names_of
from .spec import Attention, ModelSpec, Norm

__all__ = ["read"]

NAMES = names_of(q="attn.attention.q_proj", k="attn.attention.k_proj", v="attn.attention.v_proj",
                 o="attn.attention.out_proj")  # fmt: skip


def read(fields: Fields) -> ModelSpec:
    """The spec of a GPTNeoForCausalLM config."""
    fields = fields.renamed(num_hidden_layers="num_layers", num_attention_heads="num_heads",
                            hidden_act="activation_function")  # fmt: skip
    spec = read_decoder(
        fields, "gpt_neo", norm=Norm(1e-5, "layer", bias=True), eps="layer_norm_epsilon", activation="gelu_new",
        ffn=4 * fields.integer("hidden_size", 1, 1 << 18), attention=dict(o_bias=True, scale=1.0),
        feed_forward=dict(gated=False, bias=True), tied=True, names=NAMES,
    )  # fmt: skip
    window = fields.integer("window_size", 1, 1 << 24, default=256)
    local = [kind == "local" for kind in _kinds(fields, len(spec.layers))]

    def change(i: int, attention: Attention) -> Attention:
        return replace(attention, window=window if local[i] else None)

    return replace(change_attention(spec, change), positions=spec.context)


def _kinds(fields: Fields, layers: int) -> list[str]:
    """`attention_types` lists [kinds, how often they repeat]; without it global and local take turns."""
    kinds: list[str] = []
    for entry in fields.items("attention_types", [[["global", "local"], (layers + 1) // 2]]):
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], list) and type(entry[1]) is int
                and 0 <= entry[1] * len(entry[0]) <= 2 * layers and set(entry[0]) <= {"global", "local"}):  # fmt: skip
            raise fields.error("attention_types", "a list of [[global or local, …], repeats]")
        kinds += entry[0] * entry[1]
    if len(kinds) < layers:
        raise fields.error("attention_types", f"kinds for {layers} layers")
    return kinds[:layers]
