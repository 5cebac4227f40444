"""Mamba (arXiv:2312.00752) and Mamba 2 (arXiv:2405.21060): selective scans for attention, and no feed-forward."""

import math

from .decoder import MAX_HEAD_DIM, MAX_HEADS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH
from .fields import Fields
from .recurrent import Mamba, Mamba2
from .rope import MAX_POSITIONS
from .spec import Block, Layer, ModelSpec, Names, Norm

__all__ = ["read", "read2"]

MAX_STATES, MAX_TAPS = 4096, 64
MIXER = "backbone.layers.{layer}.mixer"
NAMES = Names({
    "embed": "backbone.embeddings",
    "attn_norm": "backbone.layers.{layer}.norm",
    "ssm": MIXER,
    "ssm_in": f"{MIXER}.in_proj",
    "conv": f"{MIXER}.conv1d",
    "ssm_x": f"{MIXER}.x_proj",
    "ssm_dt": f"{MIXER}.dt_proj",
    "ssm_norm": f"{MIXER}.norm",
    "ssm_out": f"{MIXER}.out_proj",
    "final_norm": "backbone.norm_f",
    "head": "lm_head",
})  # fmt: skip


def read(fields: Fields) -> ModelSpec:
    """The spec of a MambaForCausalLM config."""
    hidden = fields.integer("hidden_size", 1, MAX_WIDTH)
    rank = fields.integer_or("time_step_rank", "auto", 1, MAX_WIDTH, default=-(-hidden // 16))
    mixer = Mamba(
        inner=_inner(fields, hidden),
        states=fields.integer("state_size", 1, MAX_STATES, default=16),
        rank=rank,
        taps=fields.integer("conv_kernel", 1, MAX_TAPS, default=4),
        bias=fields.flag("use_bias", default=False),
        conv_bias=fields.flag("use_conv_bias", default=True),
    )
    return _spec(fields, "mamba", hidden, mixer, tied=True)


def read2(fields: Fields) -> ModelSpec:
    """The spec of a Mamba2ForCausalLM config."""
    hidden = fields.integer("hidden_size", 1, MAX_WIDTH)
    heads = fields.integer("num_heads", 1, MAX_HEADS, default=128)
    head_dim = fields.integer("head_dim", 1, MAX_HEAD_DIM, default=64)
    if heads * head_dim != _inner(fields, hidden):
        raise fields.error("num_heads", f"expand * hidden_size / head_dim, {_inner(fields, hidden) / head_dim:g}")
    groups = fields.integer("n_groups", 1, MAX_HEADS, default=8)
    if heads % groups:
        raise fields.error("n_groups", f"a divisor of num_heads, {heads}")
    low, high = fields.numbers("time_step_limit", 2, low=0.0, high=math.inf, default=(0.0, math.inf))
    if low > high:
        raise fields.error("time_step_limit", "the larger one last")
    if not fields.flag("rms_norm", default=True):
        raise fields.unsupported("rms_norm", "true")
    mixer = Mamba2(
        heads=heads,
        head_dim=head_dim,
        groups=groups,
        states=fields.integer("state_size", 1, MAX_STATES, default=128),
        taps=fields.integer("conv_kernel", 1, MAX_TAPS, default=4),
        eps=_eps(fields),
        low=low,
        high=high,
        bias=fields.flag("use_bias", default=False),
        conv_bias=fields.flag("use_conv_bias", default=True),
    )
    return _spec(fields, "mamba2", hidden, mixer, tied=False)


def _spec(fields: Fields, family: str, hidden: int, mixer: Block, *, tied: bool) -> ModelSpec:
    """What both have.  A state has no positions, so nothing but counting them bounds the context."""
    fields.refuse_quantized()
    if fields.text("hidden_act", default="silu") not in ("silu", "swish"):
        raise fields.unsupported("hidden_act", "silu")
    return ModelSpec(
        family=family,
        vocab=fields.integer("vocab_size", 1, MAX_VOCAB),
        hidden=hidden,
        layers=(Layer(mixer, None),) * fields.integer("num_hidden_layers", 1, MAX_LAYERS),
        context=MAX_POSITIONS,
        norm=Norm(_eps(fields)),
        tied=fields.flag("tie_word_embeddings", default=tied),
        names=NAMES,
    )


def _inner(fields: Fields, hidden: int) -> int:
    """Channels of the scan."""
    inner = int(fields.number("expand", low=0.0, high=MAX_WIDTH / hidden, default=2) * hidden)
    if inner < 1:
        raise fields.error("expand", f"at least 1 / hidden_size, {1 / hidden:g}")
    return inner


def _eps(fields: Fields) -> float:
    return fields.number("layer_norm_epsilon", low=1e-30, high=1.0, default=1e-5)
