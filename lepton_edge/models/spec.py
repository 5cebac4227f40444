"""What a decoder is, in plain values: all that the program builder, the quantizer and `lepton inspect` read."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from .rope import RopeSpec

__all__ = ["HF_MODULES", "DecoderSpec", "Names"]

HF_MODULES: Mapping[str, str] = {
    "embed": "model.embed_tokens",
    "attn_norm": "model.layers.{layer}.input_layernorm",
    "q": "model.layers.{layer}.self_attn.q_proj",
    "k": "model.layers.{layer}.self_attn.k_proj",
    "v": "model.layers.{layer}.self_attn.v_proj",
    "o": "model.layers.{layer}.self_attn.o_proj",
    "ffn_norm": "model.layers.{layer}.post_attention_layernorm",
    "gate": "model.layers.{layer}.mlp.gate_proj",
    "up": "model.layers.{layer}.mlp.up_proj",
    "down": "model.layers.{layer}.mlp.down_proj",
    "final_norm": "model.norm",
    "head": "lm_head",
}


@dataclass(frozen=True)
class Names:
    """Our name of a part -> the checkpoint's name of its tensor. `modules` holds the checkpoint's module for each."""

    modules: Mapping[str, str] = field(default_factory=lambda: HF_MODULES)

    def name(self, part: str, layer: int | None = None) -> str:
        """The tensor of `part`: `q` is q's weight and `q.bias` its bias. `layer` is needed for the parts of a layer.

        >>> Names().name("q.bias", 3)
        'model.layers.3.self_attn.q_proj.bias'
        """
        module, _, kind = part.partition(".")
        return f"{self.modules[module].format(layer=layer)}.{kind or 'weight'}"


@dataclass(frozen=True)
class DecoderSpec:
    """A pre-norm decoder: RMS norm, rotary attention, gated feed-forward. All sizes have been checked.

    `windows` has one entry for each layer: None for full attention, or how many positions a token sees, itself
    included (position p sees p - window + 1 .. p).
    `tied`: the output head is the embedding table, and the checkpoint need not have `head`.
    """

    family: str
    vocab: int
    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    norm_eps: float
    rope: RopeSpec
    windows: tuple[int | None, ...]
    q_bias: bool = False
    k_bias: bool = False
    v_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    tied: bool = False
    activation: str = "silu"
    names: Names = field(default_factory=Names, repr=False, hash=False)

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the checkpoint that this model needs, by its name there, with its exact shape."""
        shapes: dict[str, tuple[int, ...]] = {self.names.name("embed"): (self.vocab, self.hidden)}
        for layer in range(self.layers):
            shapes |= {self.names.name(part, layer): shape for part, shape in self._layer_parts().items()}
        shapes[self.names.name("final_norm")] = (self.hidden,)
        if not self.tied:
            shapes[self.names.name("head")] = (self.vocab, self.hidden)
        return shapes

    def with_tensors(self, stored: Collection[str]) -> "DecoderSpec":
        """The same model with its embedding table and head named as they are stored, as transformers 5 finds them.

        A tied model may store its one table under the head's name. One that stores both is not tied, whatever its
        config says: they may differ, and where they do not, using both changes nothing.
        """
        if not self.tied or self.names.name("head") not in stored:
            return self
        if self.names.name("embed") in stored:
            return replace(self, tied=False)
        return replace(self, names=Names({**self.names.modules, "embed": self.names.modules["head"]}))

    def _layer_parts(self) -> dict[str, tuple[int, ...]]:
        """The parts of one layer: weights [outputs, inputs], norms and biases [outputs]."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        linear = {
            "q": (query, self.hidden, self.q_bias),
            "k": (key, self.hidden, self.k_bias),
            "v": (key, self.hidden, self.v_bias),
            "o": (self.hidden, query, self.o_bias),
            "gate": (self.ffn, self.hidden, self.mlp_bias),
            "up": (self.ffn, self.hidden, self.mlp_bias),
            "down": (self.hidden, self.ffn, self.mlp_bias),
        }
        parts: dict[str, tuple[int, ...]] = {"attn_norm": (self.hidden,), "ffn_norm": (self.hidden,)}
        for part, (outputs, inputs, bias) in linear.items():
            parts[part] = (outputs, inputs)
            if bias:
                parts[f"{part}.bias"] = (outputs,)
        return parts
