"""RWKV 4 and 7: every product reads the token mixed with the one before it, each in parts of its own."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...kernels.layout import GROUP
from ...kernels.ops import ACTIVATIONS, ALWAYS, NEVER
from ...models.recurrent import ChannelMix4, ChannelMix7, TimeMix4, TimeMix7

if TYPE_CHECKING:
    from ..build import Builder

__all__ = [
    "channels4", "channels7", "inputs", "inside4", "inside7", "output", "output_channels4", "output_channels7",
]  # fmt: skip

Floats = NDArray[np.float32]
# RWKV 4 says how much of the token itself there is, and the kernel takes how much of the one before: 1 - weight.
OTHER_PART = dict(scale=-1.0, plus=-1.0)


def inputs(b: "Builder", spec: Any, i: int) -> list[str]:
    """No weight reads `h` itself."""
    return []


# -- RWKV 4 --------------------------------------------------------------------------------------------------------


def inside4(b: "Builder", spec: TimeMix4, i: int) -> None:
    """From `h` to the decaying means, and their records."""
    reads = {"time_r": "time.time_mix_receptance", "time_k": "time.time_mix_key", "time_v": "time.time_mix_value"}
    xr, xk, xv = mixed(b, i, reads, **OTHER_PART)
    r, k, v, y = (b.buffer(name, spec.width) for name in ("r", "k", "v", "wkv"))
    products(b, i, {"time_r": (xr, r), "time_k": (xk, k), "time_v": (xv, v)})
    b.emit("wkv4", f"layer {i} wkv", r=r, k=k, v=v, y=y, ld=b.ld(y), decay=b.changed("time.time_decay", i, minus_exp),
           first=b.param("time.time_first", i), state=b.state(spec.width, 3),
           records=b.records(y, [b.use_weight("time_o", i)]))  # fmt: skip


def channels4(b: "Builder", spec: ChannelMix4, i: int) -> None:
    """From `h` to relu(k)^2 and its records, and to r."""
    reads = {"channel_r": "channel.time_mix_receptance", "channel_k": "channel.time_mix_key"}
    xr, xk = mixed(b, i, reads, **OTHER_PART)
    r, k = b.buffer("r", b.spec.hidden), b.buffer("channel", spec.width)
    products(b, i, {"channel_r": (xr, r), "channel_k": (xk, k)})
    activate(b, i, "channel_v", k, "relu2")


def output_channels4(b: "Builder", spec: ChannelMix4, i: int, y: str, accumulate: bool) -> None:
    """y += sigmoid(r) * v of what is inside."""
    assert accumulate, "RWKV adds to the residual"
    value = b.buffer("value", b.spec.hidden)
    b.linear("channel_v", i, b.buffer("channel", spec.width), value)
    b.emit("sigmoid_add", f"layer {i} channel", gate=b.buffer("r", b.spec.hidden), x=value, y=y, ld=b.ld(y))


# -- RWKV 7 --------------------------------------------------------------------------------------------------------


def inside7(b: "Builder", spec: TimeMix7, i: int) -> None:
    """From `h` to the heads' normed and gated outputs, and their records."""
    width, first = spec.heads * spec.head_dim, spec.value_rank == 0
    ranks = {"w": spec.decay_rank, "a": spec.rate_rank, "g": spec.gate_rank, "v": spec.value_rank}
    maps = {name: rank for name, rank in ranks.items() if rank}
    readers = {"r": ("time_r",), "w": ("time_w1",), "k": ("time_k",), "a": ("time_a1",), "g": ("time_g1",),
               "v": ("time_v",) if first else ("time_v", "time_v1")}  # fmt: skip
    x = dict(zip(readers, mixed(b, i, {read: f"time.x_{name}" for name, read in readers.items()}), strict=True))
    r, w, k, a, g, kk, y = (b.buffer(name, width) for name in ("r", "decay", "k", "rate", "g", "kk", "wkv"))
    v = b.buffer("v_first" if first else "v", width)
    low = {name: b.buffer(f"low_{name}", rank) for name, rank in maps.items()}
    products(b, i, {"time_r": (x["r"], r), "time_k": (x["k"], k), "time_v": (x["v"], v),
                    **{f"time_{name}1": (x[name], low[name]) for name in maps}})  # fmt: skip
    functions = {"w": "tanh", "g": "sigmoid"}
    for name in maps:
        activate(b, i, f"time_{name}2", low[name], functions.get(name))
    mix = None if first else b.buffer("mix", width)
    high = {"w": w, "a": a, "g": g, "v": mix}
    products(b, i, {f"time_{name}2": (low[name], str(high[name])) for name in maps})
    heads: dict[str, Any] = dict(ld=b.ld(y), heads=spec.heads, head_dim=spec.head_dim)
    b.emit("wkv7_inputs", f"layer {i} inputs", decay=w, k=k, a=a, kk=kk, v=v, v_first=None if first else "v_first",
           mix=mix, k_k=b.param("time.k_k", i), k_a=b.param("time.k_a", i), **heads)  # fmt: skip
    b.emit("wkv7", f"layer {i} wkv", r=r, decay=w, k=k, v=v, kk=kk, a=a, y=y,
           state=b.state(spec.head_dim, spec.head_dim, spec.heads), **heads)  # fmt: skip
    b.emit("wkv7_output", f"layer {i} output", y=y, r=r, k=k, v=v, gate=g, r_k=b.param("time.r_k", i),
           weight=b.param("time_norm", i), bias=b.param("time_norm.bias", i), eps=spec.eps,
           records=b.records(y, [b.use_weight("time_o", i)]), **heads)  # fmt: skip


def channels7(b: "Builder", spec: ChannelMix7, i: int) -> None:
    """From `h` to relu(k)^2, and its records."""
    (xk,) = mixed(b, i, {"channel_k": "channel.x_k"})
    k = b.buffer("channel", spec.width)
    products(b, i, {"channel_k": (xk, k)})
    activate(b, i, "channel_v", k, "relu2")


def output_channels7(b: "Builder", spec: ChannelMix7, i: int, y: str, accumulate: bool) -> None:
    """y (+)= v of what is inside."""
    b.linear("channel_v", i, b.buffer("channel", spec.width), y, accumulate=accumulate)


# -- what both have ----------------------------------------------------------------------------------------------------


def output(b: "Builder", spec: TimeMix4 | TimeMix7, i: int, y: str, accumulate: bool) -> None:
    """y (+)= o of the means or heads."""
    width = spec.width if isinstance(spec, TimeMix4) else spec.heads * spec.head_dim
    b.linear("time_o", i, b.buffer("wkv", width), y, accumulate=accumulate)


def mixed(b: "Builder", i: int, reads: dict[Any, str], **changed: float) -> list[str]:
    """`h` mixed with the token before it, for each of `reads`: the weights that read it -> the parameter that says in
    what parts; -> the activations' names."""
    n, made = b.spec.hidden, []
    d = b.buffer("shift", n)
    b.emit("token_shift", f"layer {i} shift", x="h", y=d, ld=b.ld(d), state=b.state(n, 1))
    for count, (weights, part) in enumerate(reads.items(), 1):
        y = b.buffer(f"mixed{count}", n)
        names = [b.use_weight(name, i) for name in ([weights] if isinstance(weights, str) else weights)]
        b.emit("mix", f"layer {i} mix", x="h", d=d, weight=b.param(part, i, **changed), y=y, ld=b.ld(y),
               records=b.records(y, names), barrier=ALWAYS if count == len(reads) else NEVER)  # fmt: skip
        made.append(y)
    return made


def products(b: "Builder", i: int, of: dict[str, tuple[str, str]]) -> None:
    """y = w x for each weight and its (x, y); they do not wait for each other."""
    for count, (part, (x, y)) in enumerate(of.items(), 1):
        b.linear(part, i, x, y, barrier=ALWAYS if count == len(of) else NEVER)


def activate(b: "Builder", i: int, reader: str, y: str, function: str | None) -> None:
    """y = function(y), as the weight `reader` reads it."""
    readers, n, ld = [b.use_weight(reader, i)], b.program.buffers[y].columns, b.ld(y)
    if function is None:
        b.quantize(f"layer {i}", y, readers)
    elif function == "relu2":
        b.emit("activate", f"layer {i} {function}", gate=y, up=None, ldx=ld, y=y, ldy=ld, n=n,
               activation=ACTIVATIONS.index(function), records=b.records(y, readers), groups=ld // GROUP)  # fmt: skip
    else:
        b.emit("squash", f"layer {i} {function}", y=y, ld=ld, n=n, logistic=int(function == "sigmoid"),
               records=b.records(y, readers))  # fmt: skip


def minus_exp(decay: Floats) -> Floats:
    """The exponent that is added for each token."""
    return (-np.exp(decay.astype(np.float64))).astype(np.float32)
