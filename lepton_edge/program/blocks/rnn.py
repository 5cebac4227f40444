"""LSTM and GRU layers: the inputs' products of all tokens, then each direction by itself, side by side in `x`."""

from typing import TYPE_CHECKING

from ...kernels.layout import rnn_scratch
from ...kernels.ops import ALWAYS, NEVER
from ...models.recurrent import Rnn

if TYPE_CHECKING:
    from ..build import Builder

__all__ = ["inputs", "inside", "output"]

STATES = {"lstm": 2, "gru": 1}  # vectors that a state has


def inputs(b: "Builder", spec: Rnn, i: int) -> list[str]:
    """No weight reads `h` that the builder would have to know: the first layer reads the embedding."""
    return []


def inside(b: "Builder", spec: Rnn, i: int) -> None:
    """From what the layer reads to `x`."""
    n, x, ends = spec.units, b.entry(i), spec.directions
    barriers = [*[NEVER] * (len(ends) - 1), ALWAYS]
    b.program.need_scratch(rnn_scratch(spec.columns // n, n))
    b.quantize(f"layer {i}", x, [b.use_weight(f"w_ih{end}", i) for end in ends])
    for end, barrier in zip(ends, barriers, strict=True):
        b.product(b.use_weight(f"w_ih{end}", i), f"layer {i} w_ih{end}", x, b.buffer(f"gates{end}", spec.columns),
                  bias=b.param(f"b_ih{end}", i) if spec.bias else None, barrier=barrier)  # fmt: skip
    for back, (end, barrier) in enumerate(zip(ends, barriers, strict=True)):
        name, gates = b.use_weight(f"w_hh{end}", i), b.buffer(f"gates{end}", spec.columns)
        y = b.part_of("x", f"units{end}", back * n)
        b.emit(f"{spec.cell}_{b.format_of(name)}", f"layer {i} w_hh{end}", barrier=barrier, x=gates, ldx=b.ld(gates),
               w=name, bias=b.param(f"b_hh{end}", i) if spec.bias else None, y=y, ldy=b.ld(y), n=n, back=back,
               state=b.state(n, STATES[spec.cell]), **b.packing(name))  # fmt: skip


def output(b: "Builder", spec: Rnn, i: int, y: str, accumulate: bool) -> None:
    """Nothing is left to be done: what is inside has replaced `x`."""
    assert y == "x" and not accumulate, "recurrent layers have no residual"
