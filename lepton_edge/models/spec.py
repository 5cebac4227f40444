"""What a decoder is, in plain values: all that the program builder, the quantizer and `lepton inspect` read.

A model is a stack of layers, and a layer is a *mixer*, which lets tokens see each other, and a *feed-forward*, which
works on each token by itself.  Each kind of the two is a small class here, with a file of the same name that lowers it
in `program/blocks/`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from .rope import RopeSpec

__all__ = ["HF_MODULES", "Attention", "Block", "DecoderSpec", "FeedForward", "Layer", "Names", "Norm", "Parts"]

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

Parts = dict[str, tuple[int, ...]]  # the tensors of a layer by our names: weights [outputs, inputs], vectors [outputs]


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
class Norm:
    """How activations are normed: a root mean square norm (arXiv:1910.07467)."""

    eps: float = 1e-6

    def parts(self, part: str, width: int) -> Parts:
        """The tensors of the norm called `part`."""
        return {part: (width,)}


@dataclass(frozen=True)
class Attention:
    """A mixer: attention with rotary positions, `heads` query heads that share `kv_heads` key and value heads.

    `window`: None for full attention, or how many positions a token sees, itself included (position p sees
    p - window + 1 .. p).
    """

    heads: int
    kv_heads: int
    head_dim: int
    rope: RopeSpec
    window: int | None = None
    qkv_bias: bool = False
    o_bias: bool = False

    def parts(self, hidden: int) -> Parts:
        """The tensors of a layer."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            **linear("q", query, hidden, self.qkv_bias),
            **linear("k", key, hidden, self.qkv_bias),
            **linear("v", key, hidden, self.qkv_bias),
            **linear("o", hidden, query, self.o_bias),
        }


@dataclass(frozen=True)
class FeedForward:
    """down(activation(gate x) * up x), `width` wide (arXiv:2002.05202)."""

    width: int
    activation: str = "silu"
    bias: bool = False

    def parts(self, hidden: int) -> Parts:
        """The tensors of a layer."""
        return {
            **linear("gate", self.width, hidden, self.bias),
            **linear("up", self.width, hidden, self.bias),
            **linear("down", hidden, self.width, self.bias),
        }


class Block(Protocol):
    """What a mixer and a feed-forward have in common."""

    def parts(self, hidden: int) -> Parts:
        """The tensors of a layer."""
        ...


@dataclass(frozen=True)
class Layer:
    """One layer: x += mixer(norm(x)), then x += feed_forward(norm(x)), where there is one."""

    mixer: Block
    feed_forward: Block | None


@dataclass(frozen=True)
class DecoderSpec:
    """A decoder. All sizes have been checked.

    `tied`: the output head is the embedding table, and the checkpoint need not have `head`.
    """

    family: str
    vocab: int
    hidden: int
    layers: tuple[Layer, ...]
    context: int
    norm: Norm = Norm()
    tied: bool = False
    names: Names = field(default_factory=Names, repr=False, hash=False)

    @property
    def attentions(self) -> list[Attention]:
        """The mixers that are attention, from the first layer on."""
        return [layer.mixer for layer in self.layers if isinstance(layer.mixer, Attention)]

    @property
    def first_matrix(self) -> str:
        """The name of the first layer's first matrix, whose format stands for the others'."""
        parts = self.layer_parts(0)
        return self.names.name(next(part for part, shape in parts.items() if len(shape) == 2), 0)

    def tensors(self) -> Parts:
        """Every tensor of the checkpoint that this model needs, by its name there, with its exact shape."""
        shapes: Parts = {self.names.name("embed"): (self.vocab, self.hidden)}
        for i in range(len(self.layers)):
            shapes |= {self.names.name(part, i): shape for part, shape in self.layer_parts(i).items()}
        shapes |= {self.names.name(part): shape for part, shape in self.norm.parts("final_norm", self.hidden).items()}
        if not self.tied:
            shapes[self.names.name("head")] = (self.vocab, self.hidden)
        return shapes

    def layer_parts(self, i: int) -> Parts:
        """The parts of layer i."""
        layer = self.layers[i]
        parts = {
            **self.norm.parts("attn_norm", self.hidden),
            **layer.mixer.parts(self.hidden),
        }
        if layer.feed_forward is None:
            return parts
        return {
            **parts,
            **self.norm.parts("ffn_norm", self.hidden),
            **layer.feed_forward.parts(self.hidden),
        }

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


def linear(part: str, outputs: int, inputs: int, bias: bool = False) -> Parts:
    """The tensors of a linear map."""
    return {part: (outputs, inputs), **({f"{part}.bias": (outputs,)} if bias else {})}
