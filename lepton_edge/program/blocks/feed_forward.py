"""The feed-forward, gated or not: up, the activation, and down."""

from typing import TYPE_CHECKING, Any

from ...kernels.layout import GROUP
from ...kernels.ops import ACTIVATIONS, ALWAYS, NEVER
from ...models.spec import FeedForward
from ...quant.formats import get_format

if TYPE_CHECKING:
    from ...adapters.delta import Delta
    from ..build import Builder

__all__ = ["inputs", "inside", "output"]


def inputs(b: "Builder", spec: FeedForward, i: int) -> list[str]:
    """The weights of gate and up, or of up alone."""
    if spec.joined:
        return [b.use_rows("gate_up", i, first, spec.width) for first in (0, spec.width)]
    return [b.use_weight(spec.prefix + part, i) for part in (("gate", "up") if spec.gated else ("up",))]


def inside(b: "Builder", spec: FeedForward, i: int) -> None:
    """From `h` to the activated products, and their records."""
    names, y, up = inputs(b, spec, i), b.buffer("gate", spec.width), None
    if spec.gated:
        up = b.buffer("up", spec.width)
    records, ld = b.records(y, [b.use_weight(spec.prefix + "down", i)]), b.ld(y)
    biases = _biases(b, spec, i)
    weights, deltas = [b.program.weights[name] for name in names], _deltas(b, spec, i)
    rest: dict[str, Any] = dict(gate=y, up=up, activation=ACTIVATIONS.index(spec.activation), records=records)
    if len({weight.format for weight in weights}) == 1 and get_format(weights[0].format).packed and not any(deltas):
        label = f"layer {i} {spec.prefix}{'gate up' if spec.gated else 'up'}"
        b.emit(f"gated_{weights[0].format}", label, x=b.records_of("h"), w=names[0],
               up_w=names[1] if spec.gated else None, ldy=ld, bias=biases[0], up_bias=biases[-1],
               own=int(b.own), **rest, **b.blocks(weights[0], ("blocks", "groups", "block_bytes")))  # fmt: skip
        return
    targets = [y, up] if up else [y]
    for part, name, bias, to, delta in zip(("gate", "up")[-len(names) :], names, biases, targets, deltas, strict=True):
        b.product(name, f"layer {i} {spec.prefix}{part}", "h", to, bias=bias, own=True,
                  barrier=ALWAYS if part == "up" else NEVER, delta=delta)  # fmt: skip
    b.emit("activate", f"layer {i}", ldx=ld, y=y, ldy=ld, n=spec.width, groups=ld // GROUP, **rest)


def output(b: "Builder", spec: FeedForward, i: int, y: str, accumulate: bool) -> None:
    """y (+)= down of the activated products."""
    b.linear(spec.prefix + "down", i, b.buffer("gate", spec.width), y, accumulate=accumulate)


def _biases(b: "Builder", spec: FeedForward, i: int) -> list[str | None]:
    """Those of `inputs`."""
    if spec.joined:
        return [b.bias("gate_up", i, first, spec.width) for first in (0, spec.width)]
    return [b.bias(spec.prefix + part, i) for part in (("gate", "up") if spec.gated else ("up",))]


def _deltas(b: "Builder", spec: FeedForward, i: int) -> "list[Delta | None]":
    """How an adapter changes the weights of `inputs`."""
    if spec.joined:
        delta = b.delta("gate_up", i)
        return [delta and delta.rows(first, spec.width) for first in (0, spec.width)]
    return [b.delta(spec.prefix + part, i) for part in (("gate", "up") if spec.gated else ("up",))]
