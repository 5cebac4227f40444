"""An adapter in a program: y = w x becomes y = w x + b (a x), beside the weight, whatever its format.

Products that do not wait for each other (q, k and v) stay such a group: a x comes with w x, and b after all of them, so
a group costs one barrier more. DoRA's factors come in between, and cost another: y = g w x + g b (a x).
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..checkpoint.store import Weight
from ..kernels.ops import ALWAYS, NEVER, WANTED
from ..quant.formats import get_format

if TYPE_CHECKING:
    from ..adapters.delta import Delta
    from .build import Builder

__all__ = ["LowRank"]

F16_MAX = 65504


@dataclass
class LowRank:
    """The rows that an adapter adds to a group of products.  `waiting`: those that come after the group's products."""

    b: "Builder"
    scales: list[dict[str, Any]] = field(default_factory=list)
    ups: list[dict[str, Any]] = field(default_factory=list)
    lows: dict[int, str] = field(default_factory=dict)  # the id of a matrix `a` -> the buffer of a x

    def product(
        self, delta: "Delta", name: str, label: str, x: str, y: str, *, bias: str | None, accumulate: bool, own: bool,
        barrier: int,
    ) -> None:  # fmt: skip
        """The rows of a product with the weight `name`, as `Builder.product` has it; `flush` adds what follows."""
        b = self.b
        weight, count = b.program.weights[name], b.program.buffers[x].count
        half = get_format(weight.format).packed
        low = self._low(delta, name, label, x, half, own)
        factors = delta.factors(weight)
        up = delta.b if factors is None else delta.b * factors[:, None]
        rest: dict[str, Any] = dict(label=f"{label} lora", bias=None)
        if factors is None:
            b.multiply(name, label, x, y, bias=bias, accumulate=accumulate, own=own, barrier=barrier)
        else:
            d = b.buffer("dora", b.program.buffers[y].columns) if accumulate else y
            b.multiply(name, label, x, d, bias=None, own=own, barrier=barrier)
            # y + g d, or d + (g - 1) d in place.
            scale = b.keep(f"{name} dora", factors if accumulate else factors - np.float32(1))
            self.scales.append(dict(label=f"{label} dora", count=count, x=y, d=d, weight=scale, y=y, ld=b.ld(y)))
            rest["bias"] = bias
        self.ups.append(dict(name=self._take(f"{name} lora b", up, half), x=low, y=y, accumulate=True, **rest))

    def flush(self, barrier: int) -> None:
        """The rows that come after a group's products, of which the last one waits as `barrier` says."""
        for i, scale in enumerate(self.scales, 1):
            self.b.emit("mix", barrier=ALWAYS if i == len(self.scales) else NEVER, records=None, **scale)
        for i, up in enumerate(self.ups, 1):
            self.b.multiply(barrier=barrier if i == len(self.ups) else NEVER, own=False, **up)
        self.scales, self.ups, self.lows = [], [], {}

    def look_up(self, delta: "Delta", table: str, y: str, scale: float) -> None:
        """What changes the rows of an embedding table that are in y."""
        b = self.b
        weight = b.program.weights[table]
        half = get_format(weight.format).packed
        low = b.buffer("lora_embed", len(delta.a))
        b.look_up_in(self._take(f"{table} lora a", delta.a.T, half), "embed lora", low)
        factors, up = delta.factors(weight, turned=True), delta.b * np.float32(scale)
        if factors is not None:
            up *= factors[:, None]
            name = b.keep(f"{table} dora", factors - np.float32(1))
            self.scales.append(dict(label="embed dora", x=y, d=y, weight=name, y=y, ld=b.ld(y)))
        self.ups.append(dict(name=self._take(f"{table} lora b", up, half), label="embed lora", x=low, y=y, bias=None,
                             accumulate=True))  # fmt: skip
        self.flush(ALWAYS)

    def _low(self, delta: "Delta", name: str, label: str, x: str, half: bool, own: bool) -> str:
        """The buffer of a x, and its row, unless another part of the same weight has it already."""
        b = self.b
        if id(delta.a) not in self.lows:
            count = b.program.buffers[x].count
            low = b.buffer("lora_last" if count == WANTED else f"lora_{len(self.lows)}", len(delta.a), count)
            self.lows[id(delta.a)] = low
            taken = self._take(f"{name.partition('[')[0]} lora a", delta.a, half)
            b.multiply(taken, f"{label} lora", x, low, bias=None, own=own, barrier=NEVER)
        return self.lows[id(delta.a)]

    def _take(self, name: str, values: NDArray[np.float32], half: bool) -> str:
        """Take a matrix into the program; half: as f16, which is finer than what int8 activations leave of it."""
        fits = half and bool(np.abs(values).max(initial=0) < F16_MAX)
        format = get_format("f16" if fits else "f32")
        self.b.program.weights[name] = Weight(name, format.name, values.shape, format.pack(values))
        return name
