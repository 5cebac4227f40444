"""What a model is, in plain values: all that the program builder, the quantizer and `lepton inspect` read.

A model is a stack of layers, and a layer is a *mixer*, which lets tokens see each other, and a *feed-forward*, which
works on each token by itself.  Each kind of the two is a small class here, with a file of the same name that lowers it
in `program/blocks/`.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import ClassVar

from ..checkpoint.stored import Stored
from .attention import Attention, Disentangled, Distances
from .parts import HF_MODULES, Block, Names, Norm, Parts, linear

__all__ = [
    "HF_MODULES", "Attention", "Block", "Disentangled", "Distances", "Experts", "FeedForward", "Head", "Layer",
    "ModelSpec", "Names", "Norm", "Parts", "Target",
]  # fmt: skip

STACKED = ("experts_in", "experts_out")  # matrices one behind the other


@dataclass(frozen=True)
class FeedForward:
    """down(activation(gate x) * up x), `width` wide (arXiv:2002.05202); not gated: down(activation(up x)).

    joined: one weight `gate_up` has the rows of gate, then up.  prefix: of the parts' names.
    """

    PARAMETERS: ClassVar[tuple[str, ...]] = ()

    width: int
    activation: str = "silu"
    bias: bool = False
    gated: bool = True
    joined: bool = False
    prefix: str = ""

    def parts(self, hidden: int) -> Parts:
        """The tensors of a layer."""
        parts: Parts = {}
        if self.joined:
            parts |= linear("gate_up", 2 * self.width, hidden, self.bias)
        else:
            for part in ("gate", "up") if self.gated else ("up",):
                parts |= linear(self.prefix + part, self.width, hidden, self.bias)
        return parts | linear(self.prefix + "down", hidden, self.width, self.bias)


@dataclass(frozen=True)
class Experts:
    """A feed-forward that is a mixture (arXiv:1701.06538): a token goes through `top_k` of `count` gated ones, `width`
    wide, and takes their shares of the router's softmax: over all experts, or, `normalise`, over its own ones.

    layout: `apart`, every expert has weights of its own; `stacked`, `experts_in` [count, 2 width, hidden] has gate,
    then up of each, and `experts_out` [count, hidden, width] down.  bias: of the router and the stacked experts.
    shared: width of an expert that all tokens go through too, weighed by the sigmoid of `shared_switch`; 0 for none.
    """

    PARAMETERS: ClassVar[tuple[str, ...]] = ("router", "shared_switch")

    count: int
    top_k: int
    width: int
    normalise: bool = True
    activation: str = "silu"
    layout: str = "apart"
    bias: bool = False
    shared: int = 0

    @property
    def shared_expert(self) -> FeedForward:
        """The one that all tokens go through."""
        return FeedForward(self.shared, self.activation, prefix="shared_")

    def parts(self, hidden: int) -> Parts:
        """The tensors of a layer."""
        parts = linear("router", self.count, hidden, self.bias)
        if self.layout == "stacked":
            for part, outputs, inputs in (("in", 2 * self.width, hidden), ("out", hidden, self.width)):
                parts[f"experts_{part}"] = (self.count, outputs, inputs)
                if self.bias:
                    parts[f"experts_{part}.bias"] = (self.count, outputs)
        else:
            for e in range(self.count):
                parts |= linear(f"expert_gate@{e}", self.width, hidden) | linear(f"expert_up@{e}", self.width, hidden)
                parts |= linear(f"expert_down@{e}", hidden, self.width)
        if self.shared:
            parts |= self.shared_expert.parts(hidden) | linear("shared_switch", 1, hidden)
        return parts


@dataclass(frozen=True)
class Layer:
    """One layer: x += mixer(norm(x)), then x += feed_forward(norm(x)) where there is one, unless `ModelSpec` says
    otherwise.  cross: attention to what an encoder has left, between the two, where there is an encoder."""

    mixer: Block
    feed_forward: Block | None
    cross: Attention | None = None

    @property
    def parts(self) -> tuple[tuple[str, Block], ...]:
        """What there is of it, in order, by the names of the norms."""
        found = (("attn", self.mixer), ("cross", self.cross), ("ffn", self.feed_forward))
        return tuple((name, part) for name, part in found if part is not None)


@dataclass(frozen=True)
class Head:
    """What a model gives besides the next token: `outputs` numbers of each token, or of a sequence.

    kind: `classes`, `tokens` (classes of each token), `span` (where an answer begins and ends) or `mask` (the token in
    a masked place).  pool: whose state is read: `each` token's, the `first` one's, the `last` one's, their `mean`, or
    the `ends`: the first half of the last one's, and the second half of the first one's.
    dense: the activation of a dense layer before the output, `dense_width` wide (0: as the model), normed then if
    `dense_norm`; "" for none.  tied: the output's weight is the embedding table.  bias, dense_bias: whether they have
    one.  labels: of the outputs.  several: labels do not exclude each other.
    """

    outputs: int
    kind: str
    pool: str = "each"
    dense: str = ""
    dense_width: int = 0
    dense_bias: bool = True
    dense_norm: bool = False
    tied: bool = False
    bias: bool = True
    labels: tuple[str, ...] = ()
    several: bool = False

    def parts(self, hidden: int, norm: Norm) -> Parts:
        """The tensors of the head."""
        parts, width = Parts(), hidden
        if self.dense:
            width = self.dense_width or hidden
            parts |= linear("head_dense", width, hidden, self.dense_bias)
            if self.dense_norm:
                parts |= norm.parts("head_norm", width)
        parts |= {} if self.tied else {"head": (self.outputs, width)}
        return parts | ({"head.bias": (self.outputs,)} if self.bias else {})


@dataclass(frozen=True)
class Target:
    """A decoder that begins with the recurrent states in which an encoder has left a text.

    start: the token that it reads first.  end: the one after which it stops, or after `most` tokens.  labels: the names
    of its tokens, () where the tokenizer knows them.
    """

    spec: "ModelSpec"
    start: int
    end: int
    most: int
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelSpec:
    """A model. All sizes have been checked.

    causal: a decoder, which gives logits of the next token.  Else an encoder: a sequence is computed whole, and gives
    the hidden states of its tokens, and what `head` says of them.
    tied: the output head is the embedding table, and the checkpoint need not have `head`.
    embed_scale, logit_scale: factors of the embedding and of the logits.  logit_cap: as `Attention.cap`.
    residual_scale: what the layers' states are to be multiplied with to be the published model's.
    embed_norm: the embedding is normed.  embed_width: it is that wide and projected to `hidden`, and back at the end.
    positions: rows of a table of learned positions, from row `first_position` on for position 0; 0 for no table.
    norm_before, norm_after, norm_sum: of what mixers and feed-forwards read; of what they say before it is added; of
    the sum then (arXiv:1706.03762).
    parallel: mixer and feed-forward both read the layer's input: through one norm, or each through its own (2).
    final_norm: whether there is one before the head.
    segments: rows of a table of learned segments (token types), 0 for none.
    sinusoids: positions are not learned but computed: `halves`, sines of all frequencies and then cosines; `fairseq`,
    the same with frequencies that reach 1 / 10000.
    embed_first: positions, segments and norm of the embedding come before it is projected.  embed_bias: of that.
    first_norm: whether the first layer's mixer has a norm before it.
    bias_row: the head's bias is stored as one row, [1, vocab].
    encoder: of an encoder-decoder, which this is the decoder of; its `memory` is the `cross` of each of our layers,
    whose keys and values it makes.  start: the id that the decoder of one begins with.
    residual: layers add to what they read.  Else they replace it, and the first one reads an embedding of any width.
    target: the decoder that goes on with the states which this encoder ends with.
    """

    family: str
    vocab: int
    hidden: int
    layers: tuple[Layer, ...]
    context: int
    norm: Norm = field(default_factory=Norm)
    tied: bool = False
    head_bias: bool = False
    embed_scale: float = 1.0
    logit_scale: float = 1.0
    residual_scale: float = 1.0
    logit_cap: float = 0.0
    embed_norm: bool = False
    embed_width: int = 0
    positions: int = 0
    first_position: int = 0
    norm_before: bool = True
    norm_after: bool = False
    norm_sum: bool = False
    parallel: int = 0
    final_norm: bool = True
    causal: bool = True
    head: Head | None = None
    segments: int = 0
    sinusoids: str = ""
    embed_first: bool = False
    embed_bias: bool = False
    first_norm: bool = True
    bias_row: bool = False
    encoder: "ModelSpec | None" = None
    memory: tuple[Attention, ...] = ()
    start: int = -1
    residual: bool = True
    target: "Target | None" = None
    names: Names = field(default_factory=Names, repr=False, hash=False)

    @property
    def partners(self) -> tuple["ModelSpec", ...]:
        """The models that belong to this one: its encoder, or the decoder that it begins."""
        target = self.target.spec if self.target else None
        return tuple(other for other in (self.encoder, target) if other is not None)

    @property
    def attentions(self) -> list[Attention]:
        """The mixers that are attention, from the first layer on."""
        return [layer.mixer for layer in self.layers if isinstance(layer.mixer, Attention)]

    @property
    def projected(self) -> bool:
        """Whether the embedding is projected to `hidden`."""
        return self.embed_width > 0 and self.residual

    @property
    def first_matrix(self) -> str:
        """The name of the first layer's first matrix, whose format stands for the others'."""
        parts = self.layer_parts(0)
        return self.names.name(next(part for part, shape in parts.items() if len(shape) == 2), 0)

    def tensors(self) -> Parts:
        """Every tensor that this model needs, by its name in the checkpoint; matrices as [outputs, inputs]."""
        found = {self.names.name(part, layer): shape for (part, layer), shape in self.every_part().items()}
        for other in self.partners:
            found = other.tensors() | found
        return found

    def matrices(self) -> set[str]:
        """The names of the tensors that may be packed."""
        found = {
            self.names.name(part, layer)
            for (part, layer), shape in self.every_part().items()
            if (part in STACKED or (len(shape) == 2 and not part.endswith(".bias")))
            and (layer is None or part not in self._parameters(layer))
        }
        return found.union(*(other.matrices() for other in self.partners))

    def stored(self) -> dict[str, Stored]:
        """The tensors that a checkpoint stores in another order than ours, where they are not packed."""
        stored = self.names.stored
        return {self.names.name(part, layer): stored[part] for part, layer in self.every_part() if part in stored}

    def layer_parts(self, i: int) -> Parts:
        """The parts of layer i."""
        layer, parts = self.layers[i], Parts()
        for name, part in layer.parts:
            first = i == 0 and name == "attn" and not self.first_norm
            if self.norm_sum or (self.norm_before and not first and not (name == "ffn" and self.parallel == 1)):
                parts |= self.norm.parts(f"{name}_norm", self.hidden)
            parts |= part.parts(self.hidden)
            if self.norm_after:
                parts |= self.norm.parts(f"{name}_post_norm", self.hidden)
        return parts

    def with_tensors(self, stored: Collection[str]) -> "ModelSpec":
        """The same model with its tensors named as they are stored, as transformers 5 finds them.

        A checkpoint of the bare model lacks the names' first word; `Names.as_stored` says what else may be named
        otherwise.  A tied model may store its one table under the head's name. One that stores both is not tied,
        whatever its config says: they may differ, and where they do not, using both changes nothing.
        """
        if self.encoder is not None:
            return self._pair_with_tensors(self.encoder, stored)
        names, head = self.names, self.head
        if names.name("embed") not in stored and names.without_prefix().name("embed") in stored:
            names = names.without_prefix()
        names = names.as_stored(stored)
        tied = self.tied if head is None else head.tied
        if not tied or names.name("head") not in stored:
            return replace(self, names=names)
        if names.name("embed") in stored:
            return replace(self, names=names, tied=False, head=head and replace(head, tied=False))
        return replace(self, names=replace(names, modules={**names.modules, "embed": names.modules["head"]}))

    def _pair_with_tensors(self, encoder: "ModelSpec", stored: Collection[str]) -> "ModelSpec":
        """The same of an encoder-decoder: the table that both share may have any of its users' names."""
        stack, table = encoder.names.modules, self.names.modules
        same = stack["embed"] == table["embed"]
        users = [f"{prefix}{user}.embed_tokens" for prefix in ("", "model.") for user in ("encoder", "decoder")]
        known = [table["embed"], *(users if same else ()), *([table["head"]] if self.tied else [])]
        found = next((module for module in known if f"{module}.weight" in stored), table["embed"])
        if same:
            encoder = replace(encoder, names=replace(encoder.names, modules={**stack, "embed": found}))
        apart = found != table["head"] and f"{table['head']}.weight" in stored
        return replace(
            self, encoder=encoder, tied=self.tied and not apart,
            head_bias=self.head_bias and (not self.bias_row or self.names.name("head.bias") in stored),
            names=replace(self.names, modules={**table, "embed": found}),
        )  # fmt: skip

    def _parameters(self, layer: int) -> tuple[str, ...]:
        if layer >= len(self.layers):  # a deeper decoder's keys and values
            return ()
        return tuple(name for _, part in self.layers[layer].parts for name in part.PARAMETERS)

    def every_part(self) -> dict[tuple[str, int | None], tuple[int, ...]]:
        """Every part with its layer, or None, and its shape."""
        width = self.embed_width or self.hidden
        found: Parts = {"embed": (self.vocab, width)}
        inner = width if self.embed_first else self.hidden
        if self.positions and not self.sinusoids:
            found["positions"] = (self.positions, inner)
        if self.segments:
            found["segments"] = (self.segments, inner)
        if self.projected:
            found |= linear("project_in", self.hidden, width, self.embed_bias)
            found |= linear("project_out", width, self.hidden) if self.causal else {}
        if self.embed_norm:
            found |= self.norm.parts("embed_norm", inner)
        if self.final_norm:
            found |= self.norm.parts("final_norm", self.hidden)
        if self.head is not None:
            found |= self.head.parts(self.hidden, self.norm)
        elif self.causal:
            found |= {} if self.tied else {"head": (self.vocab, width if self.residual else self.hidden)}
            found |= {"head.bias": (1, self.vocab) if self.bias_row else (self.vocab,)} if self.head_bias else {}
        parts: dict[tuple[str, int | None], tuple[int, ...]] = {(part, None): shape for part, shape in found.items()}
        for i in range(len(self.layers)):
            parts |= {(part, i): shape for part, shape in self.layer_parts(i).items()}
        for i, attention in enumerate(self.memory):
            parts |= {(part, i): shape for part, shape in attention.memory_parts(self.hidden).items()}
        return parts
