"""Lower a decoder to a program: the order of a model's parts, and the operands and rows that its blocks share."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checkpoint.store import Weight
from ..errors import CheckpointError
from ..kernels.layout import BLOCK, GROUP, PANEL_BYTES, QUERY_TILE, TOP, summary_sizes
from ..kernels.ops import ALWAYS, LARGE, TOKENS, WANTED
from ..models.rope import RopeSpec
from ..models.spec import DecoderSpec
from ..quant.formats import get_format
from .blocks import BLOCKS
from .recurrent import blocked
from .table import Buffer, Program, Row, pad

__all__ = ["Builder", "build_decoder"]

Change = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def build_decoder(spec: DecoderSpec, weight: Callable[[str], Weight], kv_dtype: str, context: int) -> Program:
    """The program of a decoder.  `weight(name)` gives a tensor, in the format in which it shall run."""
    return Builder(spec, weight, kv_dtype, context).build()


class Builder:
    """A program in the making: what the parts of a model and its blocks (`blocks/`) are written with."""

    def __init__(self, spec: DecoderSpec, weight: Callable[[str], Weight], kv_dtype: str, context: int) -> None:
        """Takes what `build_decoder` takes."""
        self.spec, self.weight = spec, weight
        self.shapes = spec.tensors()
        self.program = Program(spec.vocab, context, kv_dtype, query_tile=QUERY_TILE)

    def build(self) -> Program:
        """The program.  CheckpointError for a weight of another shape than the spec's."""
        self.program.need_scratch(PANEL_BYTES)
        for name in ("x", "h"):
            self.buffer(name, self.spec.hidden)
        self.embed()
        for i in range(len(self.spec.layers)):
            self.layer(i)
        self.head()
        self.summary()
        return self.program

    # -- parts of the model ---------------------------------------------------------------------------------

    def embed(self) -> None:
        """ids to `x`."""
        name = self.use_weight("embed")
        weight = self.program.weights[name]
        self.emit(f"embed_{weight.format}", "embed", w=name, y="x", ldy=self.ld("x"), n=self.spec.hidden,
                  **self.blocks(weight, ("groups", "block_bytes")))  # fmt: skip

    def layer(self, i: int) -> None:
        """Layer i: x += mixer(norm(x)), x += feed_forward(norm(x)) where there is one."""
        layer = self.spec.layers[i]
        for norm, part in (("attn_norm", layer.mixer), ("ffn_norm", layer.feed_forward)):
            if part is None:
                continue
            block = BLOCKS[type(part)]
            self.norm(norm, i, "x", "h", block.inputs(self, part, i), own=block.own)
            block.inside(self, part, i)
            block.output(self, part, i, "x", True)

    def head(self) -> None:
        """`x` of the wanted tokens to `logits`."""
        hidden, part = self.spec.hidden, "embed" if self.spec.tied else "head"
        for name in ("last", "last_h"):
            self.buffer(name, hidden, WANTED)
        self.buffer("logits", self.spec.vocab, WANTED)
        self.emit("gather", "head", WANTED, x="x", ldx=self.ld("x"), y="last", ldy=self.ld("last"), n=self.ld("x"))
        self.norm("final_norm", None, "last", "last_h", [self.use_weight(part)])
        self.linear(part, None, "last_h", "logits", own=True, label="head")

    def summary(self) -> None:
        """What a sampler reads of the logits; an executor may stop before these rows."""
        program, vocab = self.program, self.spec.vocab
        chunks, size = summary_sizes(vocab)
        for buffer in (
            Buffer("peaks", size, WANTED), Buffer("top", TOP + 2 + chunks, WANTED),
            Buffer("top_ids", TOP, WANTED, integers=True),
        ):  # fmt: skip
            program.buffers[buffer.name] = buffer
        program.logits_rows = len(program.rows)
        logits: dict[str, Any] = dict(x="logits", ldx=self.ld("logits"), n=vocab)
        self.emit("block_peaks", "summary", WANTED, y="peaks", ldy=self.ld("peaks"), **logits)
        self.emit("top", "summary", WANTED, peaks="peaks", ldp=self.ld("peaks"), y="top", ldy=self.ld("top"),
                  ids="top_ids", **logits)  # fmt: skip

    # -- rows ---------------------------------------------------------------------------------------------------

    def norm(
        self, part: str, layer: int | None, x: str, y: str, consumers: list[str], *, own: bool = True
    ) -> None:  # fmt: skip
        """y = norm of x, and its records where a weight among `consumers` reads them.

        own: only products read it, so that in a small step each thread may have its own.
        """
        count = self.program.buffers[x].count
        self.emit("rms_norm", _label(part, layer), count, x=x, ldx=self.ld(x), weight=self.param(part, layer), y=y,
                  ldy=self.ld(y), n=self.spec.hidden, eps=self.spec.norm.eps,
                  records=self.records(y, consumers), groups=self.ld(x) // GROUP, own=int(own),
                  barrier=LARGE if own else ALWAYS)  # fmt: skip

    def linear(
        self, part: str, layer: int | None, x: str, y: str, *, accumulate: bool = False, own: bool = False,
        barrier: int = ALWAYS, label: str | None = None,
    ) -> None:  # fmt: skip
        """y (+)= w x (+ bias), of the weight and bias called `part`.  `own`: x is a norm's output."""
        name, count = self.use_weight(part, layer), self.program.buffers[x].count
        weight = self.program.weights[name]
        rows, columns = weight.shape
        packed = get_format(weight.format).packed
        rest: dict[str, Any]
        if packed:
            rest = self.blocks(weight, ("blocks", "groups", "block_bytes"))
        else:
            rest = dict(ldx=self.ld(x), columns=columns)
        self.emit(f"matmul_{weight.format}", label or _label(part, layer), count, barrier=barrier, y=y, ldy=self.ld(y),
                  w=name, x=self.records_of(x) if packed else x, rows=rows, bias=self.bias(part, layer),
                  accumulate=int(accumulate), own=int(own), **rest)  # fmt: skip

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

    def has(self, part: str, layer: int | None) -> bool:
        """Whether the model has a tensor."""
        return self.spec.names.name(part, layer) in self.shapes

    def use_weight(self, part: str, layer: int | None = None) -> str:
        """Take a weight into the program; -> its name."""
        name = self.spec.names.name(part, layer)
        if name not in self.program.weights:
            weight = self.weight(name)
            nbytes = get_format(weight.format).nbytes(*self.shapes[name])
            if weight.shape != self.shapes[name] or weight.data.nbytes != nbytes:
                raise CheckpointError(f"{name}: has shape {weight.shape}, expected {self.shapes[name]}")
            self.program.weights[name] = weight
        return name

    def bias(self, part: str, layer: int | None) -> str | None:
        """The name of a product's bias, where it has one."""
        return self.param(f"{part}.bias", layer) if self.has(f"{part}.bias", layer) else None

    def param(self, part: str, layer: int | None, change: Change | None = None) -> str:
        """Take a vector into the program, changed where asked, as float32 padded with zeros; -> its name."""
        name = self.spec.names.name(part, layer)
        values = self.weight(name).to_f32().reshape(-1)
        values = values if change is None else change(values)
        padded: NDArray[np.float32] = np.zeros(pad(values.size), np.float32)
        padded[: values.size] = values
        self.program.params[name] = padded
        return name

    def channels(self, part: str, layer: int, change: Change | None = None) -> str:
        """The same for a tensor that has several numbers for each channel; see `recurrent.blocked`."""
        name = self.spec.names.name(part, layer)
        values = self.weight(name).to_f32()
        values = values if change is None else change(values)
        self.program.params[name] = blocked(values.reshape(len(values), -1))
        return name

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

    def blocks(self, weight: Weight, fields: tuple[str, ...]) -> dict[str, Any]:
        """Sizes of a packed weight's row blocks; zeros for a plain one."""
        rows, columns = weight.shape
        blocks, format = pad(rows, BLOCK) // BLOCK, get_format(weight.format)
        sizes = dict(blocks=blocks, groups=pad(columns) // GROUP, block_bytes=weight.data.nbytes // blocks)
        return {name: sizes[name] if format.packed else 0 for name in fields}


def _label(part: str, layer: int | None) -> str:
    return part if layer is None else f"layer {layer} {part}"
