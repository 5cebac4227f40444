"""StarCoder2 (arXiv:2402.19173): layer norms, biases, a feed-forward that is not gated."""

from .decoder import modules, read_decoder
from .fields import Fields
from .rope import MAX_POSITIONS
from .spec import ModelSpec, Norm

__all__ = ["read"]


def read(fields: Fields) -> ModelSpec:
    """The spec of a Starcoder2ForCausalLM config."""
    bias = fields.flag("use_bias", default=True)
    return read_decoder(
        fields, "starcoder2", norm=Norm(1e-5, "layer", bias=True), eps="norm_epsilon", activation="gelu_pytorch_tanh",
        rope={}, windows=_windows, attention=dict(qkv_bias=bias, o_bias=bias), tied=True,
        feed_forward=dict(gated=False, bias=bias), names=modules(up="mlp.c_fc", down="mlp.c_proj"),
    )  # fmt: skip


def _windows(fields: Fields, layers: int) -> tuple[int | None, ...]:
    return (fields.integer_or_none("sliding_window", 1, MAX_POSITIONS),) * layers
