"""What families with mixtures of experts share: the fields of their configs."""

from collections.abc import Container
from dataclasses import replace
from typing import Any

from .decoder import MAX_WIDTH, read_activation
from .fields import Fields
from .spec import Experts, ModelSpec

__all__ = ["read_experts", "sparse_layers", "with_experts"]

MAX_EXPERTS = 4096


def read_experts(fields: Fields, count: str, width: str, **options: Any) -> Experts:
    """The mixture that a config describes; count, width: the names of its fields; options: of `Experts`.

    A router of another kind, as DeepSeek's fields describe it, is refused.
    """
    for name, only in (("scoring_func", "softmax"), ("topk_method", "greedy")):
        if fields.text(name, default=only) != only:
            raise fields.unsupported(name, only)
    for name in ("routed_scaling_factor", "n_group"):
        if fields.number(name, low=0.0, high=1e9, default=1.0) != 1.0:
            raise fields.unsupported(name, "1")
    experts = fields.integer(count, 1, MAX_EXPERTS)
    top_k = fields.integer("num_experts_per_tok", 1, MAX_EXPERTS)
    if top_k > experts:
        raise fields.error("num_experts_per_tok", f"at most {count}, {experts}")
    size = fields.integer(width, 1, MAX_WIDTH)
    return Experts(experts, top_k, size, **{"activation": read_activation(fields, "silu"), **options})


def sparse_layers(fields: Fields, layers: int) -> set[int]:
    """The layers that have experts: every `decoder_sparse_step`-th, but for those of `mlp_only_layers`."""
    step, dense = fields.integer("decoder_sparse_step", 1, 1 << 20, default=1), fields.items("mlp_only_layers", [])
    if not all(type(i) is int and 0 <= i < layers for i in dense):
        raise fields.error("mlp_only_layers", f"numbers of layers, from 0 to {layers - 1}")
    return {i for i in range(layers) if (i + 1) % step == 0} - set(dense)


def with_experts(spec: ModelSpec, experts: Experts, where: Container[int] | None = None) -> ModelSpec:
    """The spec with these experts as feed-forward of some layers, or of all."""
    layers = [
        replace(layer, feed_forward=experts) if where is None or i in where else layer
        for i, layer in enumerate(spec.layers)
    ]
    return replace(spec, layers=tuple(layers))
