"""Mamba and Mamba 2: one product, a convolution, a scan, an output projection."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...kernels.layout import GROUP
from ...models.recurrent import Mamba, Mamba2
from .short_conv import convolve

if TYPE_CHECKING:
    from ..build import Builder

__all__ = ["inputs", "inside", "inside2", "output"]

LOG2_E = 1.4426950408889634


def inputs(b: "Builder", spec: Mamba | Mamba2, i: int) -> list[str]:
    """The weight of the first product."""
    return [b.use_weight("ssm_in", i)]


def inside(b: "Builder", spec: Mamba, i: int) -> None:
    """From `h` to the gated scan, and its records.  B and C come from the convolution's output, as do the steps."""
    n, columns = spec.inner, spec.rank + 2 * spec.states
    xz, x, bc, dt = b.buffer("xz", 2 * n), b.buffer("ssm", n), b.buffer("dt_bc", columns), b.buffer("dt", n)
    b.linear("ssm_in", i, "h", xz, own=True)
    convolve(b, i, n, spec.taps, x=xz, y=x, at=0, gate_in=-1, gate_out=-1, silu=1,
             records=b.records(x, [b.use_weight("ssm_x", i)]))  # fmt: skip
    b.linear("ssm_x", i, x, bc)
    records = b.records(bc, [b.use_weight("ssm_dt", i)])
    if records:
        # The last group may reach into B, which meets weights of 0.
        b.emit("quantize", f"layer {i} dt", x=bc, ldx=b.ld(bc), records=records, groups=-(-spec.rank // GROUP))
    b.linear("ssm_dt", i, bc, dt)
    b.emit("selective_scan", f"layer {i} scan", x=x, dt=dt, y=x, ld=b.ld(x), bc=bc, ldbc=b.ld(bc), at=spec.rank, z=xz,
           ldz=b.ld(xz), a=b.channels("ssm.A_log", i, decays), d=b.param("ssm.D", i), n=n, states=spec.states,
           state=b.state(n, spec.states), records=b.records(x, [b.use_weight("ssm_out", i)]))  # fmt: skip


def inside2(b: "Builder", spec: Mamba2, i: int) -> None:
    """From `h` to the gated norm of the scan, and its records.  The product holds the gate, x B C, and the steps."""
    n = spec.inner
    zxbcdt = b.buffer("zxbcdt", n + spec.conv + spec.heads)
    x, y = b.buffer("xbc", spec.conv), b.buffer("ssm", n)
    b.linear("ssm_in", i, "h", zxbcdt, own=True)
    convolve(b, i, spec.conv, spec.taps, x=zxbcdt, y=x, at=n, gate_in=-1, gate_out=-1, silu=1, records=None)
    b.emit("head_scan", f"layer {i} scan", x=x, ldx=b.ld(x), dt=zxbcdt, lddt=b.ld(zxbcdt), y=y,
           a=b.changed("ssm.A_log", i, decays), d=b.param("ssm.D", i), bias=b.param("ssm.dt_bias", i), heads=spec.heads,
           head_dim=spec.head_dim, groups=spec.groups, states=spec.states, low=spec.low, high=spec.high,
           state=b.state(spec.head_dim, spec.states, spec.heads))  # fmt: skip
    b.emit("silu_rms", f"layer {i} ssm_norm", x=y, ldx=b.ld(y), gate=zxbcdt, ldg=b.ld(zxbcdt),
           weight=b.param("ssm_norm", i), y=y, ldy=b.ld(y), n=n, parts=spec.groups, eps=spec.eps,
           records=b.records(y, [b.use_weight("ssm_out", i)]))  # fmt: skip


def output(b: "Builder", spec: Mamba | Mamba2, i: int, y: str, accumulate: bool) -> None:
    """y (+)= out of the scan."""
    b.linear("ssm_out", i, b.buffer("ssm", spec.inner), y, accumulate=accumulate)


def decays(a_log: NDArray[np.float32]) -> NDArray[np.float32]:
    """-e^A_log / log 2, for kernels that take 2 to the power of it."""
    with np.errstate(over="ignore"):
        return (-np.exp(a_log.astype(np.float64)) * LOG2_E).astype(np.float32)
