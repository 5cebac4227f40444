"""A mixture of experts: the router, the products with the chosen experts' weights, and the weighed sum."""

from typing import TYPE_CHECKING, Any

from ...errors import UnsupportedModelError
from ...kernels.layout import GROUP, PAIR, route_scratch
from ...kernels.ops import ACTIVATIONS, ALWAYS, LARGE, NEVER, TOKENS
from ...models.spec import Experts
from ...quant.formats import get_format
from ..table import Buffer, pad
from . import feed_forward

if TYPE_CHECKING:
    from ..build import Builder

__all__ = ["inputs", "inside", "output"]


def inputs(b: "Builder", spec: Experts, i: int) -> list[str]:
    """The router's weight and the shared expert's; the experts read what `dispatch` lays out."""
    shared = [*feed_forward.inputs(b, spec.shared_expert, i), b.use_weight("shared_switch", i)] if spec.shared else []
    return [b.use_weight("router", i), *shared]


def inside(b: "Builder", spec: Experts, i: int) -> None:
    """From `h` to the activated products of each (token, expert) pair, in the order of the experts."""
    if spec.shared:
        feed_forward.inside(b, spec.shared_expert, i)
        b.linear("shared_switch", i, "h", b.buffer("shared_switch", 1), own=True, barrier=NEVER)
    logits, label = b.buffer("router", spec.count), f"layer {i}"
    b.linear("router", i, "h", logits, own=True)
    b.program.need_scratch(route_scratch(spec.count))
    b.emit("route", label, barrier=LARGE, x=logits, ldx=b.ld(logits), experts=spec.count, top_k=spec.top_k,
           normalise=int(spec.normalise), shares=b.buffer("shares", spec.top_k), **_places(b, spec))  # fmt: skip
    gate, up, down = _tables(b, spec, i)
    x, ld = _pairs(b, spec, "expert_x", b.spec.hidden), b.ld("h")
    formats = {b.format_of(name) for name in (gate, up)}
    packed = {get_format(format).packed for format in formats}
    records = _records(b, x) if True in packed else None
    b.emit("dispatch", label, barrier=LARGE, x="h", ldx=ld, own=int(b.own), top_k=spec.top_k, sorted=0,
           y=x if False in packed else None, records=records, order="order")  # fmt: skip
    y, other = (_pairs(b, spec, name, spec.width) for name in ("expert_gate", "expert_up"))
    ready = _records(b, y) if get_format(b.format_of(down)).packed else None
    kind = ACTIVATIONS.index(spec.activation)
    if len(formats) == 1 and True in packed:
        weight = b.program.weights_of(gate)[0]
        b.emit(f"gated_{weight.format}", f"{label} experts gate up", x=records, w=gate, up_w=up, gate=y, up=other,
               ldy=pad(spec.width), bias=_bias(b, spec, i, "gate"), up_bias=_bias(b, spec, i, "up"), activation=kind,
               records=ready, own=1, **_chosen(spec), **b.blocks(weight, ("blocks", "groups", "block_bytes")),
               )  # fmt: skip
        return
    _product(b, spec, i, "gate", gate, x, y, barrier=NEVER)
    _product(b, spec, i, "up", up, x, other)
    # The pairs of a token lie side by side, each padded to whole groups.
    wide = b.ld(y)
    b.emit("activate", f"{label} experts", gate=y, up=other, ldx=wide, y=y, ldy=wide, n=wide, activation=kind,
           records=None, groups=wide // GROUP)  # fmt: skip
    if ready:
        b.emit("dispatch", label, x=y, ldx=pad(spec.width), own=0, top_k=spec.top_k, sorted=1, y=None, records=ready,
               order="order")  # fmt: skip


def output(b: "Builder", spec: Experts, i: int, y: str, accumulate: bool) -> None:
    """y (+)= what the experts make of their tokens, weighed."""
    extra: dict[str, Any] = dict(shared=None, shared_gate=None, ldg=0)
    if spec.shared:
        shared = b.buffer("shared", b.spec.hidden)
        feed_forward.output(b, spec.shared_expert, i, shared, False)
        extra = dict(shared=shared, shared_gate="shared_switch", ldg=b.ld("shared_switch"))
    x = _pairs(b, spec, "expert_y", b.spec.hidden)
    _product(b, spec, i, "down", _tables(b, spec, i)[2], _pairs(b, spec, "expert_gate", spec.width), x, own=0)
    b.emit("combine", f"layer {i}", x=x, ldx=b.ld(y), shares=b.buffer("shares", spec.top_k),
           places=_places(b, spec)["places"], top_k=spec.top_k, y=y, accumulate=int(accumulate), **extra)  # fmt: skip


def _product(
    b: "Builder", spec: Experts, i: int, part: str, table: str, x: str, y: str, *, own: int = 1, barrier: int = ALWAYS
) -> None:
    """y[place] = the weight of its expert times x[place]."""
    weight = b.program.weights_of(table)[0]
    rows, columns = weight.shape
    rest: dict[str, Any] = dict(x=x, ldx=pad(columns), columns=columns)
    if get_format(weight.format).packed:
        rest = dict(x=b.records_of(x), **b.blocks(weight, ("blocks", "groups", "block_bytes")))
    b.emit(f"matmul_{weight.format}", f"layer {i} experts {part}", barrier=barrier, w=table, y=y, ldy=pad(rows),
           rows=rows, bias=_bias(b, spec, i, part), accumulate=0, own=own, **_chosen(spec), **rest)  # fmt: skip


def _bias(b: "Builder", spec: Experts, i: int, part: str) -> str | None:
    """The biases of all experts' gate, up or down, where they have any."""
    if spec.layout == "apart":
        return None
    if part == "down":
        return b.biases("experts_out", i, 0, b.spec.hidden)
    return b.biases("experts_in", i, 0 if part == "gate" else spec.width, spec.width)


def _chosen(spec: Experts) -> dict[str, Any]:
    """What makes a product one over the chosen experts."""
    return dict(order="order", top_k=spec.top_k)


def _places(b: "Builder", spec: Experts) -> dict[str, Any]:
    """The buffers that say which pair is where."""
    for name, columns in (("places", spec.top_k), ("order", spec.top_k * PAIR // 4)):
        b.program.buffers[name] = Buffer(name, columns, integers=True)
    return dict(places="places", order="order")


def _pairs(b: "Builder", spec: Experts, name: str, columns: int) -> str:
    """A buffer with so many columns for each pair."""
    return b.buffer(name, spec.top_k * pad(columns))


def _records(b: "Builder", x: str) -> str:
    name = b.records_of(x)
    b.program.buffers[name] = Buffer(name, b.program.buffers[x].columns, TOKENS, records=True)
    return name


def _tables(b: "Builder", spec: Experts, i: int) -> tuple[str, str, str]:
    """The names of the tables of gate, up and down."""
    width, hidden = spec.width, b.spec.hidden
    if spec.layout == "stacked":
        both = [b.use_rows("experts_in", i, n * width, width) for n in range(2 * spec.count)]
        down = [b.use_rows("experts_out", i, n * hidden, hidden) for n in range(spec.count)]
        weights = {"gate": both[0::2], "up": both[1::2], "down": down}
    else:
        each = range(spec.count)
        weights = {part: [b.use_weight(f"expert_{part}@{e}", i) for e in each] for part in ("gate", "up", "down")}
    names = {part: f"layer {i} experts {part}" for part in weights}
    for part, held in weights.items():
        formats = {b.program.weights[name].format for name in held}
        if len(formats) > 1:
            raise UnsupportedModelError(
                f"{held[0]} and the same of the layer's other experts are in several formats: "
                f"{', '.join(sorted(formats))}; expected one; quantize the model again, with rules for all of them"
            )
        b.program.tables[names[part]] = tuple(held)
    return names["gate"], names["up"], names["down"]
