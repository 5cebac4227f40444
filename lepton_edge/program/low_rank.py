"""An adapter in a program: y = w x becomes y = w x + b (a x), beside the weight, whatever its format.

Products that do not wait for each other (q, k and v) stay such a group: a x of all of them comes with w x, as one
product, and b after that, so a group costs one barrier more. DoRA's factors come in between, and cost another:
y = g w x + g b (a x).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..checkpoint.store import Weight
from ..kernels.layout import BLOCK
from ..kernels.ops import ALWAYS, NEVER, WANTED
from ..quant.formats import get_format

if TYPE_CHECKING:
    from ..adapters.delta import Delta
    from .build import Builder

__all__ = ["LowRank"]

F16_MAX = 65504


@dataclass
class _Change:
    """A product of a group, of the weight `name`, and what changes it.

    scale: the row that multiplies y with DoRA's factors, and b: with them, too; bias: comes after.  low: where a x is.
    """

    delta: "Delta"
    name: str
    label: str
    x: str
    own: bool
    y: str
    bias: str | None = None
    scale: dict[str, Any] | None = None
    b: NDArray[np.float32] | None = None
    low: str = ""


class LowRank:
    """The rows that an adapter adds to a group of products."""

    def __init__(self, builder: "Builder") -> None:
        self.builder = builder
        self.group: list[_Change] = []

    def change(
        self, delta: "Delta", name: str, label: str, x: str, y: str, bias: str | None, accumulate: bool, own: bool
    ) -> tuple[str, str | None, bool]:
        """Take a product of the weight `name` into the group; -> its y, bias and accumulate from now on."""
        b, count = self.builder, self.builder.program.buffers[x].count
        factors = delta.factors(b.program.weights[name])
        change = _Change(delta, name, label, x, own, y)
        self.group.append(change)
        if factors is None:
            return y, bias, accumulate
        # y + g d, or d + (g - 1) d in place.
        d = b.buffer("dora", b.program.buffers[y].columns) if accumulate else y
        weight = b.keep(f"{name} dora", factors if accumulate else factors - np.float32(1))
        change.scale = dict(label=f"{label} dora", count=count, x=y, d=d, weight=weight, y=y, ld=b.ld(y))
        change.b, change.bias = delta.b * factors[:, None], bias
        return d, None, False

    def downs(self) -> None:
        """The rows of a x, before the group's last product: one for all that have the same x."""
        groups: dict[tuple[str, bool, bool], list[_Change]] = {}
        for change in self.group:
            groups.setdefault((change.x, change.own, self._half(change.name)), []).append(change)
        for i, ((x, own, half), changes) in enumerate(groups.items()):
            matrices = {id(change.delta.a): change.delta.a for change in changes}  # parts of a weight share theirs
            starts = dict(zip(matrices, np.cumsum([0, *map(len, matrices.values())]).tolist(), strict=False))
            stacked = np.concatenate(list(matrices.values()))
            b, count = self.builder, self.builder.program.buffers[x].count
            # The kernels read x in whole registers: so far beyond the last part.
            columns = len(stacked) + (BLOCK if len(matrices) > 1 else 0)
            whole = b.buffer("lora_last" if count == WANTED else f"lora_{i}", columns, count)
            for change in changes:
                first = starts[id(change.delta.a)]
                change.low = b.part_of(whole, f"from {first}", first) if first else whole
            name = self._take(f"{changes[0].name} lora a", stacked, half)
            b.multiply(name, f"{changes[0].label} lora", x, whole, bias=None, own=own, barrier=NEVER)

    def ups(self, barrier: int) -> None:
        """The rows that come after the group's products, of which the last one waits as `barrier` says."""
        scales = [change.scale for change in self.group if change.scale]
        for i, scale in enumerate(scales, 1):
            self.builder.emit("mix", barrier=ALWAYS if i == len(scales) else NEVER, records=None, **scale)
        for i, change in enumerate(self.group, 1):
            up = change.delta.b if change.b is None else change.b
            name = self._take(f"{change.name} lora b", up, self._half(change.name))
            self.builder.multiply(name, f"{change.label} lora", change.low, change.y, bias=change.bias, accumulate=True,
                                  barrier=barrier if i == len(self.group) else NEVER)  # fmt: skip
        self.group = []

    def look_up(self, delta: "Delta", table: str, y: str, scale: float) -> None:
        """What changes the rows of an embedding table that are in y."""
        b, half = self.builder, self._half(table)
        low = b.buffer("lora_embed", len(delta.a))
        b.look_up_in(self._take(f"{table} lora a", delta.a.T, half), "embed lora", low)
        factors, up = delta.factors(b.program.weights[table], turned=True), delta.b * np.float32(scale)
        if factors is not None:
            up *= factors[:, None]
            weight = b.keep(f"{table} dora", factors - np.float32(1))
            b.emit("mix", label="embed dora", x=y, d=y, weight=weight, y=y, ld=b.ld(y), records=None)
        b.multiply(self._take(f"{table} lora b", up, half), "embed lora", low, y, bias=None, accumulate=True)

    def _half(self, name: str) -> bool:
        """Whether a weight's changes are f16: what int8 activations leave of it is coarser."""
        return get_format(self.builder.program.weights[name].format).packed

    def _take(self, name: str, values: NDArray[np.float32], half: bool) -> str:
        """Take a matrix into the program, as f16 (`half`) or f32."""
        fits = half and bool(np.abs(values).max(initial=0) < F16_MAX)
        format = get_format("f16" if fits else "f32")
        self.builder.program.weights[name] = Weight(name, format.name, values.shape, format.pack(values))
        return name
