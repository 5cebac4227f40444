"""What the parts of a model are called, how large they are, and how a norm is written."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

from ..checkpoint.stored import Stored

__all__ = ["HF_MODULES", "Block", "Names", "Norm", "Parts", "linear"]

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
    "q_norm": "model.layers.{layer}.self_attn.q_norm",
    "k_norm": "model.layers.{layer}.self_attn.k_norm",
    "router": "model.layers.{layer}.mlp.gate",
    "expert_gate": "model.layers.{layer}.mlp.experts.{expert}.gate_proj",
    "expert_up": "model.layers.{layer}.mlp.experts.{expert}.up_proj",
    "expert_down": "model.layers.{layer}.mlp.experts.{expert}.down_proj",
    "shared_gate": "model.layers.{layer}.mlp.shared_expert.gate_proj",
    "shared_up": "model.layers.{layer}.mlp.shared_expert.up_proj",
    "shared_down": "model.layers.{layer}.mlp.shared_expert.down_proj",
    "shared_switch": "model.layers.{layer}.mlp.shared_expert_gate",
    "final_norm": "model.norm",
    "head": "lm_head",
}

Parts = dict[str, tuple[int, ...]]  # the tensors of a layer by our names: weights [outputs, inputs], vectors [outputs]


@dataclass(frozen=True)
class Names:
    """Our name of a part -> the checkpoint's name of its tensor. `modules` holds the checkpoint's module for each,
    in which {layer} and {expert}, or {head}, stand for numbers.

    A module that ends in `=` is itself the weight's name, and `NAME_bias` its bias's; where `PART.bias` is in `modules`
    too, that is the bias's.  stored: the parts that a checkpoint stores in another order than ours; packed ones never
    are.
    """

    modules: Mapping[str, str] = field(default_factory=lambda: HF_MODULES)
    stored: Mapping[str, Stored] = field(default_factory=dict)

    def name(self, part: str, layer: int | None = None) -> str:
        """The tensor of `part`: `q` is q's weight, `q.bias` its bias, and `expert_up@3` that of expert 3.

        `layer` is needed for the parts of a layer.

        >>> Names().name("q.bias", 3)
        'model.layers.3.self_attn.q_proj.bias'
        """
        if "." in part and part in self.modules:
            return self.modules[part].format(layer=layer)
        module, _, kind = part.partition(".")
        module, _, expert = module.partition("@")
        path = self.modules[module].format(layer=layer, expert=expert, head=expert)
        if path.endswith("="):
            return path[:-1] + (f"_{kind}" if kind else "")
        return f"{path}.{kind or 'weight'}"

    def without_prefix(self) -> "Names":
        """The names in a checkpoint of the bare model, without the first word of those that share the embedding's."""
        prefix = self.modules["embed"].partition(".")[0] + "."
        return replace(self, modules={part: module.removeprefix(prefix) for part, module in self.modules.items()})

    def as_stored(self, stored: Collection[str]) -> "Names":
        """The names with what old checkpoints, or those of a tied table, call otherwise.

        A LayerNorm may have `gamma` and `beta`, and the bias of an output whose weight is the embedding may lie beside
        it: `lm_head.bias` for `lm_head.decoder.bias`.
        """
        found: dict[str, str] = {}
        for part, module in self.modules.items():
            if module.endswith("LayerNorm") and f"{module.format(layer=0)}.gamma" in stored:
                found |= {part: f"{module}.gamma=", f"{part}.bias": f"{module}.beta"}
        head, inner, _ = self.modules.get("head", "").rpartition(".")
        if inner and self.name("head.bias") not in stored and f"{head}.bias" in stored:
            found["head.bias"] = f"{head}.bias"
        return replace(self, modules={**self.modules, **found})


@dataclass(frozen=True)
class Norm:
    """How activations are normed: kind `rms` (arXiv:1910.07467) or `layer` (arXiv:1607.06450).

    plus_one: the stored weight is the factor less 1. Without `weight` the factor is 1.
    """

    eps: float = 1e-6
    kind: str = "rms"
    weight: bool = True
    bias: bool = False
    plus_one: bool = False

    def parts(self, part: str, width: int) -> Parts:
        """The tensors of the norm called `part`."""
        weight: Parts = {part: (width,)} if self.weight else {}
        return weight | ({f"{part}.bias": (width,)} if self.bias else {})


class Block(Protocol):
    """What a mixer and a feed-forward have in common.  PARAMETERS: parts that are never packed, whatever the shape."""

    PARAMETERS: ClassVar[tuple[str, ...]]

    def parts(self, hidden: int) -> Parts:
        """The tensors of a layer."""
        ...


def linear(part: str, outputs: int, inputs: int, bias: bool = False) -> Parts:
    """The tensors of a linear map."""
    return {part: (outputs, inputs), **({f"{part}.bias": (outputs,)} if bias else {})}
