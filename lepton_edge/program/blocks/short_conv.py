"""Lfm2's short convolution between two gates."""

from typing import TYPE_CHECKING, Any

from ...models.recurrent import ShortConv

if TYPE_CHECKING:
    from ..build import Builder

__all__ = ["convolve", "inputs", "inside", "output"]


def inputs(b: "Builder", spec: ShortConv, i: int) -> list[str]:
    """The weight that makes both gates and what is convolved."""
    return [b.use_weight("conv_in", i)]


def inside(b: "Builder", spec: ShortConv, i: int) -> None:
    """From `h` to the gated convolution, and its records."""
    n = b.spec.hidden
    x, y = b.buffer("bcx", 3 * n), b.buffer("conv", n)
    b.linear("conv_in", i, "h", x, own=True)
    convolve(b, i, n, spec.taps, x=x, y=y, at=2 * n, gate_in=0, gate_out=n, silu=0,
             records=b.records(y, [b.use_weight("conv_out", i)]))  # fmt: skip


def output(b: "Builder", spec: ShortConv, i: int, y: str, accumulate: bool) -> None:
    """y (+)= out of the convolution."""
    b.linear("conv_out", i, b.buffer("conv", b.spec.hidden), y, accumulate=accumulate)


def convolve(b: "Builder", i: int, n: int, taps: int, *, x: str, y: str, **values: Any) -> None:
    """The row of a causal convolution of n channels; `values`: its other fields."""
    b.emit("short_conv", f"layer {i} conv", x=x, ldx=b.ld(x), n=n, taps=taps, weight=b.channels("conv", i),
           bias=b.bias("conv", i), state=b.state(n, taps - 1), y=y, ldy=b.ld(y), **values)  # fmt: skip
