"""Mixtral (arXiv:2401.04088): Mistral whose feed-forward is a mixture of experts."""

from .decoder import modules, read_decoder
from .fields import Fields
from .mixtures import read_experts, with_experts
from .rope import MAX_POSITIONS
from .spec import ModelSpec, Norm

__all__ = ["read"]

EXPERT = "block_sparse_moe.experts.{expert}."
NAMES = modules(
    router="block_sparse_moe.gate", expert_gate=EXPERT + "w1", expert_up=EXPERT + "w3", expert_down=EXPERT + "w2"
)


def read(fields: Fields) -> ModelSpec:
    """The spec of a MixtralForCausalLM config."""
    fields = fields.with_default(num_local_experts=8, num_experts_per_tok=2)
    spec = read_decoder(fields, "mixtral", norm=Norm(1e-5), rope=dict(theta=1e6), windows=_windows, names=NAMES)
    return with_experts(spec, read_experts(fields, "num_local_experts", "intermediate_size"))


def _windows(fields: Fields, layers: int) -> tuple[int | None, ...]:
    """A window on every layer, or, as in all that were published, on none."""
    return (fields.integer_or_none("sliding_window", 1, MAX_POSITIONS),) * layers
