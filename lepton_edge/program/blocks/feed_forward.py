"""The gated feed-forward."""

from typing import TYPE_CHECKING

from ...kernels.layout import GROUP
from ...kernels.ops import NEVER
from ...models.spec import FeedForward
from ...quant.formats import get_format

if TYPE_CHECKING:
    from ..build import Builder

__all__ = ["inputs", "inside", "output"]


def inputs(b: "Builder", spec: FeedForward, i: int) -> list[str]:
    """The weights of gate and up."""
    return [b.use_weight(part, i) for part in ("gate", "up")]


def inside(b: "Builder", spec: FeedForward, i: int) -> None:
    """From `h` to the activated products, and their records."""
    names, y, up = inputs(b, spec, i), b.buffer("gate", spec.width), b.buffer("up", spec.width)
    records, ld = b.records(y, [b.use_weight("down", i)]), b.ld(y)
    weights = [b.program.weights[name] for name in names]
    if weights[0].format == weights[1].format and get_format(weights[0].format).packed:
        b.emit(f"gated_{weights[0].format}", f"layer {i} gate up", x=b.records_of("h"), w=names[0], up_w=names[1],
               gate=y, up=up, ldy=ld, bias=b.bias("gate", i), up_bias=b.bias("up", i), records=records, own=1,
               **b.blocks(weights[0], ("blocks", "groups", "block_bytes")))  # fmt: skip
    else:
        b.linear("gate", i, "h", y, own=True, barrier=NEVER)
        b.linear("up", i, "h", up, own=True)
        b.emit("swiglu", f"layer {i}", gate=y, up=up, ldx=ld, y=y, ldy=ld, n=spec.width, records=records,
               groups=ld // GROUP)  # fmt: skip


def output(b: "Builder", spec: FeedForward, i: int, y: str, accumulate: bool) -> None:
    """y (+)= down of the activated products."""
    b.linear("down", i, b.buffer("gate", spec.width), y, accumulate=accumulate)
