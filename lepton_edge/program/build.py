"""Lower a model to a program: the order of a model's parts, and the operands and rows that its blocks share."""

import math
import zlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..checkpoint.store import Weight
from ..errors import CheckpointError, UnsupportedModelError
from ..kernels.layout import BLOCK, GROUP, MATMUL_BYTES, QUERY_TILE
from ..kernels.ops import ALWAYS, BY_ID, BY_POSITION, BY_SEGMENT, LARGE, NEVER, TOKENS, WANTED
from ..models.rope import RopeSpec
from ..models.spec import ModelSpec, Norm
from ..quant.formats import get_format
from .blocks import BLOCKS, Block
from .low_rank import LowRank
from .outputs import write_outputs
from .recurrent import blocked
from .table import Buffer, Program, Row, pad

if TYPE_CHECKING:
    from ..adapters.delta import Adapter, Delta

__all__ = ["Builder", "build_program"]

Change = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def build_program(
    spec: ModelSpec, weight: Callable[[str], Weight], kv_dtype: str, context: int, adapter: "Adapter | None" = None
) -> Program:
    """The program of a model, as an adapter changes it.

    `weight(name)` gives a tensor of the model, in the format in which it shall run.
    """
    if adapter is not None:
        spec, weight = adapter.spec, partial(adapter.weight, base=weight)
    return Builder(spec, weight, kv_dtype, context, adapter).build()


class Builder:
    """A program in the making: what the parts of a model and its blocks (`blocks/`) are written with."""

    def __init__(
        self, spec: ModelSpec, weight: Callable[[str], Weight], kv_dtype: str, context: int,
        adapter: "Adapter | None" = None,
    ) -> None:  # fmt: skip
        """Takes the model as the adapter changes it."""
        self.spec, self.weight = spec, weight
        self.adapter, self.low_rank = adapter, LowRank(self)
        self.shapes = spec.tensors()
        self.whole: dict[str, Weight] = {}  # weights that are taken in parts: to arrange one in memory takes long
        self.own = spec.norm_before  # `h` is a norm's output, of which each thread has its own in a small step
        self.program = Program(spec.vocab, context, kv_dtype, query_tile=QUERY_TILE)
        self.stacks: dict[str, Weight] = {}  # those whose rows are taken apart: a source may make a weight anew

    def build(self) -> Program:
        """The program.  CheckpointError for a weight of another shape than the spec's."""
        self.program.need_scratch(MATMUL_BYTES)
        self.buffer("x", self.spec.hidden)
        if self.own:
            self.buffer("h", self.spec.hidden)
        else:
            self.part_of("x", "h", 0)
        self.embed()
        for i in range(len(self.spec.layers)):
            self.program.layer_rows.append(len(self.program.rows))
            self.layer(i)
        write_outputs(self)
        return self.program

    # -- parts of the model ---------------------------------------------------------------------------------

    def embed(self) -> None:
        """ids to `x`."""
        spec = self.spec
        width = spec.embed_width or spec.hidden
        y = self.buffer("embedded", width) if spec.embed_width else "x"
        self.look_up("embed", y, scale=spec.embed_scale)
        if delta := self.delta("embed"):
            self.low_rank.look_up(delta, self.use_weight("embed"), y, spec.embed_scale)
        if spec.embed_first:
            self.positions(y)
        if spec.projected:
            self.quantize("embed", y, [self.use_weight("project_in")])
            self.linear("project_in", None, y, "x")
        if not spec.embed_first:
            self.positions("x")

    def positions(self, y: str) -> None:
        """Add what an embedding has besides the tokens' rows, and norm it."""
        spec = self.spec
        if spec.sinusoids:
            self.look_up_in(self.sinusoids(), "positions", y, by=BY_POSITION, offset=0, accumulate=1)
        elif spec.positions:
            self.look_up("positions", y, by=BY_POSITION, offset=spec.first_position, accumulate=1)
        if spec.segments:
            self.look_up("segments", y, by=BY_SEGMENT, offset=0, accumulate=1)
        if spec.embed_norm and (spec.first_norm or y != "x"):
            self.norm("embed_norm", None, y, y, [], own=False, barrier=ALWAYS)

    def layer(self, i: int) -> None:
        """Layer i: x += mixer(norm(x)), x += feed_forward(norm(x)), in the order and with the norms of the family."""
        spec, parts = self.spec, self.blocks_of(i)
        if not spec.parallel:
            for n, (name, part, block) in enumerate(parts):
                self.enter(f"{name}_norm", i, block.inputs(self, part, i), own=block.own)
                block.inside(self, part, i)
                if spec.norm_after:
                    y = self.buffer("added", spec.hidden)
                    block.output(self, part, i, y, False)
                    self.norm(f"{name}_post_norm", i, y, "x", [], own=False, accumulate=True, barrier=ALWAYS)
                else:
                    block.output(self, part, i, "x", spec.residual)
                if spec.norm_sum:
                    self.norm(f"{name}_norm", i, "x", "h", self.readers(i, n + 1), own=False, barrier=ALWAYS)
            return
        readers = [block.inputs(self, part, i) for _, part, block in parts]
        self.enter("attn_norm", i, readers[0] + (readers[1] if spec.parallel == 1 else []))
        for name, part, block in parts:
            if name == "ffn" and spec.parallel == 2:
                self.enter("ffn_norm", i, readers[1])
            block.inside(self, part, i)
        for _, part, block in parts:
            block.output(self, part, i, "x", True)

    def blocks_of(self, i: int) -> list[tuple[str, Any, Block]]:
        """The blocks of layer i: names, specs, and how they are lowered."""
        return [(name, part, BLOCKS[type(part)]) for name, part in self.spec.layers[i].parts]

    def readers(self, i: int, n: int) -> list[str]:
        """The weights that read `h` in block n of layer i, or first in the next layer; none after the last."""
        parts = self.blocks_of(i)
        if n == len(parts):
            i, n = i + 1, 0
            if i == len(self.spec.layers):
                return []
            parts = self.blocks_of(i)
        return parts[n][2].inputs(self, parts[n][1], i)

    def enter(self, norm: str, i: int, readers: list[str], own: bool = True) -> None:
        """`h`, which the weights `readers` are multiplied with, from `x`.  own: nothing else reads it."""
        if i == 0 and norm == "attn_norm" and not self.spec.first_norm:
            self.norm("embed_norm", None, "x", "h", readers, own=False, barrier=ALWAYS)
            self.norm("embed_norm", None, "x", "x", [], own=False, barrier=ALWAYS)
            self.program.layer_rows[0] = len(self.program.rows)
        elif self.spec.norm_before:
            self.norm(norm, i, "x", "h", readers, own=own, barrier=LARGE if own else ALWAYS)
        elif not self.spec.norm_sum or (i == 0 and norm == "attn_norm"):  # else the norm before has done it
            self.quantize(f"layer {i}", "h", readers)

    def entry(self, i: int) -> str:
        """What layer i reads, in a model whose layers replace what they read."""
        return "embedded" if i == 0 and self.spec.embed_width else "h"

    # -- rows ---------------------------------------------------------------------------------------------------

    def look_up(self, part: str, y: str, scale: float = 1.0, **rest: int) -> None:
        """y (+)= rows of a table: see the ops `embed_...`."""
        self.look_up_in(self.use_weight(part), part, y, scale, **rest)

    def look_up_in(self, name: str, label: str, y: str, scale: float = 1.0, **rest: int) -> None:
        """The same of a table by its name."""
        weight = self.program.weights[name]
        more = dict(by=BY_ID, offset=0, accumulate=0) | rest
        self.program.need_scratch(self.ld(y) * 4)
        self.emit(f"embed_{weight.format}", label, w=name, y=y, ldy=self.ld(y), n=weight.shape[1], scale=scale, **more,
                  **self.blocks(weight, ("groups", "block_bytes")))  # fmt: skip

    def norm(
        self, part: str, layer: int | None, x: str, y: str, readers: list[str], *, norm: Norm | None = None,
        scale: float = 1.0, own: bool = True, accumulate: bool = False, barrier: int = LARGE,
    ) -> None:  # fmt: skip
        """y (+)= scale * norm of x, and its records where a weight among `readers` is packed.

        own: in a small step each thread computes it for itself.
        """
        norm, held = norm or self.spec.norm, self.program.buffers[x]
        bias = self.param(f"{part}.bias", layer, scale) if norm.bias else None
        self.emit(f"{norm.kind}_norm", _label(part, layer), held.count, x=x, ldx=held.ld, bias=bias,
                  weight=self.factors(part, layer, norm, scale, held.columns), y=y, ldy=self.ld(y), n=held.columns,
                  eps=norm.eps, accumulate=int(accumulate), records=self.records(y, readers),
                  groups=pad(held.columns) // GROUP, own=int(own), barrier=barrier)  # fmt: skip

    def quantize(self, label: str, x: str, readers: list[str]) -> None:
        """x as records, where a weight among `readers` is packed."""
        if records := self.records(x, readers):
            held = self.program.buffers[x]
            self.emit("quantize", label, held.count, x=x, ldx=held.ld, records=records, groups=held.ld // GROUP)

    def linear(
        self, part: str, layer: int | None, x: str, y: str, *, accumulate: bool = False, own: bool = False,
        barrier: int = ALWAYS,
    ) -> None:  # fmt: skip
        """y (+)= w x (+ bias), of the weight and bias called `part`.  `own`: x is a norm's output."""
        self.product(self.use_weight(part, layer), _label(part, layer), x, y, bias=self.bias(part, layer),
                     accumulate=accumulate, own=own, barrier=barrier, delta=self.delta(part, layer))  # fmt: skip

    def product(
        self, name: str, label: str, x: str, y: str, *, bias: str | None, accumulate: bool = False, own: bool = False,
        barrier: int = ALWAYS, delta: "Delta | None" = None,
    ) -> None:  # fmt: skip
        """y (+)= w x (+ bias), of a weight by its name, as an adapter changes it.

        After NEVER another product has to follow.
        """
        if delta is not None:
            y, bias, accumulate = self.low_rank.change(delta, name, label, x, y, bias, accumulate, own)
        if barrier != NEVER:
            self.low_rank.downs()
        self.multiply(name, label, x, y, bias=bias, accumulate=accumulate, own=own, barrier=barrier)
        if barrier != NEVER:
            self.low_rank.ups(barrier)

    def multiply(
        self, name: str, label: str, x: str, y: str, *, bias: str | None, accumulate: bool = False, own: bool = False,
        barrier: int = ALWAYS,
    ) -> None:  # fmt: skip
        """The row of a product, of a weight by its name."""
        weight, count = self.program.weights[name], self.program.buffers[x].count
        rows, columns = weight.shape
        packed = get_format(weight.format).packed
        rest: dict[str, Any]
        if packed:
            rest = self.blocks(weight, ("blocks", "groups", "block_bytes"))
        else:
            rest = dict(ldx=self.ld(x), columns=columns)
        own = own and (self.own or count == WANTED)
        self.emit(f"matmul_{weight.format}", label, count, barrier=barrier, y=y, ldy=self.ld(y), w=name,
                  x=self.records_of(x) if packed else x, rows=rows, bias=bias, accumulate=int(accumulate),
                  own=int(own), **rest)  # fmt: skip

    def emit(self, op: str, label: str, count: int = TOKENS, barrier: int = ALWAYS, **values: Any) -> None:
        """Append a row."""
        self.program.rows.append(Row(op, values, count, barrier, label))

    # -- operands -----------------------------------------------------------------------------------------------

    def buffer(self, name: str, columns: int, count: int = TOKENS) -> str:
        """An activation of that many columns, shared by all layers; -> its name.

        The padding of its rows stays zero, so another width has a buffer of its own.
        """
        held = self.program.buffers.get(name)
        if held is not None and held.columns != columns:
            return self.buffer(f"{name}_{columns}", columns, count)
        self.program.buffers[name] = Buffer(name, columns, count)
        return name

    def part_of(self, whole: str, name: str, first: int) -> str:
        """The columns of an activation from `first` on, under another name; -> that."""
        held = self.program.buffers[whole]
        name = name if whole in ("x", "qkv") else f"{name} of {whole}"
        self.program.buffers[name] = Buffer(name, held.columns - first, held.count, within=held, first=first)
        return name

    def ld(self, buffer: str) -> int:
        """Floats from one token of an activation to the next."""
        return self.program.buffers[buffer].ld

    def rope(self, spec: RopeSpec) -> str:
        """The name of a table of angles."""
        ropes = self.program.ropes
        for name, held in ropes.items():
            if held == spec:
                return name
        name = f"rope{len(ropes)}"
        ropes[name] = spec
        return name

    def delta(self, part: str, layer: int | None = None) -> "Delta | None":
        """How an adapter changes a weight, if it does."""
        return self.adapter.deltas.get((part, layer)) if self.adapter else None

    def has(self, part: str, layer: int | None) -> bool:
        """Whether the model has a tensor."""
        return self.spec.names.name(part, layer) in self.shapes

    def use_weight(self, part: str, layer: int | None = None) -> str:
        """Take a weight into the program; -> its name."""
        name = self.spec.names.name(part, layer)
        if name not in self.program.weights:
            self.program.weights[name] = self._checked(name)
        return name

    def use_rows(self, part: str, layer: int, first: int, rows: int) -> str:
        """Take some rows of a weight into the program, without copying them; -> their name."""
        name = self.spec.names.name(part, layer)
        place = f"{name}[{first}:{first + rows}]"
        if place not in self.program.weights:
            whole = self.stacks[name] = self.stacks.get(name) or self._checked(name)
            format, columns = get_format(whole.format), whole.shape[-1]
            if first % format.block_rows or rows % format.block_rows:
                raise UnsupportedModelError(
                    f"{name}: holds several matrices of {rows} rows; {whole.format} needs a multiple of "
                    f"{format.block_rows}; keep it in another format (--keep '{part}=f16')"
                )
            start = format.nbytes(first, columns)
            data = whole.data[start : start + format.nbytes(rows, columns)]
            self.program.weights[place] = Weight(place, whole.format, (rows, columns), data)
        return place

    def _checked(self, name: str) -> Weight:
        if name in self.whole:
            return self.whole[name]
        weight = self.weight(name)
        *rows, columns = self.shapes[name]
        nbytes = get_format(weight.format).nbytes(math.prod(rows), columns)
        if weight.shape != self.shapes[name] or weight.data.nbytes != nbytes:
            raise CheckpointError(f"{name}: has shape {weight.shape}, expected {self.shapes[name]}")
        self.whole[name] = weight
        return weight

    def bias(self, part: str, layer: int | None, first: int = 0, rows: int | None = None) -> str | None:
        """The name of a product's bias, or of some rows of it, where it has one."""
        if not self.has(f"{part}.bias", layer):
            return None
        name = self.spec.names.name(f"{part}.bias", layer)
        values = self.weight(name).to_f32()
        if rows is None:
            return self.keep(name, values)
        return self.keep(f"{name}[{first}:{first + rows}]", values[first : first + rows])

    def biases(self, part: str, layer: int, first: int, rows: int) -> str | None:
        """The name of the biases of some rows of each stacked matrix, [count, rows padded], where they have any."""
        if not self.has(f"{part}.bias", layer):
            return None
        name = self.spec.names.name(f"{part}.bias", layer)
        values = self.weight(name).to_f32()[:, first : first + rows]
        padded = np.pad(values, ((0, 0), (0, pad(rows) - rows)))
        return self.keep(f"{name}[:, {first}:{first + rows}]", padded.reshape(-1))

    def factors(
        self, part: str, layer: int | None, norm: Norm, scale: float = 1.0, columns: int = 0
    ) -> str:
        """What a norm multiplies with, times `scale`: `columns` ones where it has no weight; -> the name."""
        if not norm.weight:
            name = self.constant((scale,) * columns)
            assert name is not None
            return name
        return self.param(part, layer, scale, float(norm.plus_one))

    def param(self, part: str, layer: int | None, scale: float = 1.0, plus: float = 0.0) -> str:
        """Take scale * (a stored vector + plus) into the program, as float32 padded with zeros; -> its name."""
        name = self.spec.names.name(part, layer)
        return self.keep(name, (self.weight(name).to_f32().reshape(-1) + np.float32(plus)) * np.float32(scale))

    def joined(self, parts: list[str], layer: int) -> str:
        """Take stored vectors, one behind the other, into the program; -> the name."""
        names = [self.spec.names.name(part, layer) for part in parts]
        return self.keep(" and ".join(names[:2]), np.concatenate([self.weight(name).to_f32() for name in names]))

    def sinusoids(self) -> str:
        """A table of computed positions [context, hidden] as a weight; -> its name (arXiv:1706.03762, section 3.5)."""
        n, half = self.spec.hidden, -(-self.spec.hidden // 2)
        positions = np.arange(self.program.context)[:, None] + self.spec.first_position
        steps = np.arange(half) / (max(1, n // 2 - 1) if self.spec.sinusoids == "fairseq" else n / 2)
        angles = positions * 10000.0**-steps
        table: NDArray[np.float32] = np.zeros((self.program.context, n), np.float32)
        table[:, :half], table[:, half : 2 * (n // 2)] = np.sin(angles), np.cos(angles[:, : n // 2])
        return self.made("positions", table)

    def made(self, name: str, values: NDArray[np.float32]) -> str:
        """Take a matrix that is computed, and not stored, into the program as an f32 weight; -> its name."""
        data = np.ascontiguousarray(values).view(np.uint8).reshape(-1)
        self.program.weights[name] = Weight(name, "f32", values.shape, data)
        return name

    def constant(self, values: tuple[float, ...]) -> str | None:
        """Take numbers into the program; -> their name, None where there are none."""
        if not values:
            return None
        array = np.array(values, np.float32)
        return self.keep(f"constant {zlib.crc32(array.tobytes()):08x} {len(values)}", array)

    def keep(self, name: str, values: NDArray[np.float32]) -> str:
        """Take numbers into the program as a parameter; -> the name."""
        padded: NDArray[np.float32] = np.zeros(pad(values.size), np.float32)
        padded[: values.size] = values
        self.program.params[name] = padded
        return name

    def changed(self, part: str, layer: int, change: Change) -> str:
        """Take change(a stored vector) into the program; -> its name."""
        name = self.spec.names.name(part, layer)
        return self.keep(name, change(self.weight(name).to_f32().reshape(-1)))

    def channels(self, part: str, layer: int, change: Change | None = None) -> str:
        """The same for a tensor that has several numbers for each channel; see `recurrent.blocked`."""
        name = self.spec.names.name(part, layer)
        values = self.weight(name).to_f32()
        values = values if change is None else change(values)
        return self.keep(name, blocked(values.reshape(len(values), -1)))

    def state(self, channels: int, each: int, heads: int = 1) -> int:
        """Room for `each` floats of every channel of every head in a sequence's state; -> where it begins, in bytes."""
        place = self.program.state_bytes
        self.program.state_bytes += heads * pad(channels) * each * 4
        return place

    def records(self, x: str, consumers: list[str]) -> str | None:
        """The buffer for x as int8 groups, where any of the weights that read it is packed."""
        if not any(get_format(self.program.weights[name].format).packed for name in consumers):
            return None
        name, held = self.records_of(x), self.program.buffers[x]
        self.program.buffers[name] = Buffer(name, held.columns, held.count, records=True)
        return name

    def records_of(self, x: str) -> str:
        """The name of x as int8 groups."""
        return f"{x}_records"

    def format_of(self, name: str) -> str:
        """The format of a weight, or of those of a table."""
        return self.program.weights_of(name)[0].format

    def packing(self, name: str) -> dict[str, Any]:
        """The fields of a packed weight that a row of it has; none for a plain one."""
        weight = self.program.weights[name]
        fields = ("blocks", "groups", "block_bytes")
        return self.blocks(weight, fields) if get_format(weight.format).packed else {}

    def blocks(self, weight: Weight, fields: tuple[str, ...]) -> dict[str, Any]:
        """Sizes of a packed weight's row blocks; zeros for a plain one."""
        rows, columns = weight.shape
        blocks, format = pad(rows, BLOCK) // BLOCK, get_format(weight.format)
        sizes = dict(blocks=blocks, groups=pad(columns) // GROUP, block_bytes=weight.data.nbytes // blocks)
        return {name: sizes[name] if format.packed else 0 for name in fields}


def _label(part: str, layer: int | None) -> str:
    return part if layer is None else f"layer {layer} {part}"
