"""Blocks with a state beside each sequence: what a layer is that is neither attention nor a plain feed-forward."""

from dataclasses import dataclass
from math import inf
from typing import ClassVar

from ..kernels.ops import RECURRENT
from .parts import Parts, linear

__all__ = ["ChannelMix4", "ChannelMix7", "Mamba", "Mamba2", "Rnn", "ShortConv", "TimeMix4", "TimeMix7"]


@dataclass(frozen=True)
class ShortConv:
    """A mixer: out(c * conv(b * x)), where b, c and x come from one product and the convolution is `taps` wide."""

    PARAMETERS: ClassVar[tuple[str, ...]] = ()

    taps: int
    bias: bool = False

    def parts(self, hidden: int) -> Parts:
        """The tensors of a layer."""
        return {
            **linear("conv_in", 3 * hidden, hidden, self.bias),
            **convolution(hidden, self.taps, self.bias),
            **linear("conv_out", hidden, hidden, self.bias),
        }


@dataclass(frozen=True)
class Mamba:
    """A mixer (arXiv:2312.00752): a selective scan of `inner` channels with `states` states each.

    `rank`: of the map to the step sizes.  `taps`: width of the convolution before the scan.
    """

    PARAMETERS: ClassVar[tuple[str, ...]] = ("ssm_x", "ssm_dt", "ssm.A_log")  # small, and worth all their bits

    inner: int
    states: int
    rank: int
    taps: int
    bias: bool = False
    conv_bias: bool = True

    def parts(self, hidden: int) -> Parts:
        """The tensors of a layer."""
        return {
            **linear("ssm_in", 2 * self.inner, hidden, self.bias),
            **convolution(self.inner, self.taps, self.conv_bias),
            **linear("ssm_x", self.rank + 2 * self.states, self.inner),
            **linear("ssm_dt", self.inner, self.rank, True),
            "ssm.A_log": (self.inner, self.states),
            "ssm.D": (self.inner,),
            **linear("ssm_out", hidden, self.inner, self.bias),
        }


@dataclass(frozen=True)
class Mamba2:
    """A mixer (arXiv:2405.21060): as Mamba, but with one decay for each head, and a norm after the scan.

    `groups`: heads // groups neighbours share B and C.  `low`, `high`: limits of a step.  `eps`: of the norm.
    """

    PARAMETERS: ClassVar[tuple[str, ...]] = ()

    heads: int
    head_dim: int
    groups: int
    states: int
    taps: int
    eps: float
    low: float = 0.0
    high: float = inf
    bias: bool = False
    conv_bias: bool = True

    @property
    def inner(self) -> int:
        """Channels of the scan."""
        return self.heads * self.head_dim

    @property
    def conv(self) -> int:
        """Channels of the convolution: those of the scan, B and C."""
        return self.inner + 2 * self.groups * self.states

    def parts(self, hidden: int) -> Parts:
        """The tensors of a layer."""
        return {
            **linear("ssm_in", self.inner + self.conv + self.heads, hidden, self.bias),
            **convolution(self.conv, self.taps, self.conv_bias),
            "ssm.dt_bias": (self.heads,),
            "ssm.A_log": (self.heads,),
            "ssm.D": (self.heads,),
            "ssm_norm": (self.inner,),
            **linear("ssm_out", hidden, self.inner, self.bias),
        }


@dataclass(frozen=True)
class TimeMix4:
    """A mixer, RWKV 4's (arXiv:2305.13048): an exponentially decaying mean of values, `width` channels."""

    PARAMETERS: ClassVar[tuple[str, ...]] = ()

    width: int

    def parts(self, hidden: int) -> Parts:
        """The tensors of a layer."""
        return {
            **{f"time.time_mix_{name}": (1, 1, hidden) for name in ("key", "value", "receptance")},
            **{f"time.time_{name}": (self.width,) for name in ("decay", "first")},
            **{k: v for part in ("time_r", "time_k", "time_v") for k, v in linear(part, self.width, hidden).items()},
            **linear("time_o", hidden, self.width),
        }


@dataclass(frozen=True)
class ChannelMix4:
    """A feed-forward, RWKV 4's: sigmoid(r x) * v relu(k x)^2, each x mixed with the token before."""

    PARAMETERS: ClassVar[tuple[str, ...]] = ()

    width: int

    def parts(self, hidden: int) -> Parts:
        """The tensors of a layer."""
        return {
            **{f"channel.time_mix_{name}": (1, 1, hidden) for name in ("key", "receptance")},
            **linear("channel_k", self.width, hidden),
            **linear("channel_r", hidden, hidden),
            **linear("channel_v", hidden, self.width),
        }


@dataclass(frozen=True)
class TimeMix7:
    """A mixer, RWKV 7's (arXiv:2503.14456): a matrix for each head, from which each token removes and adds.

    `*_rank`: of the maps that make decays, rates and gates; `value_rank` is 0 in the first layer, whose values the
    others are mixed with.  `eps`: of the norm of each head.
    """

    PARAMETERS: ClassVar[tuple[str, ...]] = ("time.r_k", *(f"time_{name}{i}" for name in "wagv" for i in (1, 2)))

    heads: int
    head_dim: int
    decay_rank: int
    rate_rank: int
    gate_rank: int
    value_rank: int
    eps: float

    def parts(self, hidden: int) -> Parts:
        """The tensors of a layer."""
        width = self.heads * self.head_dim
        parts: Parts = {f"time.x_{name}": (1, 1, hidden) for name in "rwkvag"}
        parts |= {f"time.{name}": (width,) for name in ("k_k", "k_a")}
        for part in ("time_r", "time_k", "time_v"):
            parts |= linear(part, width, hidden)
        ranks = {"w": self.decay_rank, "a": self.rate_rank, "g": self.gate_rank, "v": self.value_rank}
        for name, rank in ranks.items():
            if rank:
                parts |= linear(f"time_{name}1", rank, hidden) | linear(f"time_{name}2", width, rank, name != "g")
        parts["time.r_k"] = (self.heads, self.head_dim)
        return parts | {"time_norm": (width,), "time_norm.bias": (width,)} | linear("time_o", hidden, width)


@dataclass(frozen=True)
class ChannelMix7:
    """A feed-forward, RWKV 7's: v relu(k x)^2, x mixed with the token before."""

    PARAMETERS: ClassVar[tuple[str, ...]] = ()

    width: int

    def parts(self, hidden: int) -> Parts:
        """The tensors of a layer."""
        return {
            "channel.x_k": (hidden,),
            **linear("channel_k", self.width, hidden),
            **linear("channel_v", hidden, self.width),
        }


@dataclass(frozen=True)
class Rnn:
    """A mixer that gives `units` numbers of each token in place of its `inputs`: an `lstm` or a `gru`.

    both: another one goes from the last token to the first, and its numbers come behind.  bias: of both products, whose
    weights hold the gates one behind the other.
    """

    PARAMETERS: ClassVar[tuple[str, ...]] = ()

    cell: str
    inputs: int
    units: int
    both: bool = False
    bias: bool = True

    @property
    def columns(self) -> int:
        """Of a token's gates in one direction."""
        return RECURRENT[self.cell] * self.units

    @property
    def directions(self) -> tuple[str, ...]:
        """What the names of the parts of each direction end in."""
        return ("", "_back") if self.both else ("",)

    def parts(self, hidden: int) -> Parts:
        """The tensors of a layer."""
        parts: Parts = {}
        for end in self.directions:
            for kind, inputs in (("ih", self.inputs), ("hh", self.units)):
                parts[f"w_{kind}{end}"] = (self.columns, inputs)
                parts |= {f"b_{kind}{end}": (self.columns,)} if self.bias else {}
        return parts


def convolution(channels: int, taps: int, bias: bool) -> Parts:
    """The tensors of a convolution of each channel by itself."""
    return {"conv": (channels, 1, taps), **({"conv.bias": (channels,)} if bias else {})}
