"""Lower a decoder to a program: the one place that knows what a transformer block is made of."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checkpoint.store import Weight
from ..errors import CheckpointError
from ..kernels.layout import (
    BLOCK,
    GROUP,
    PANEL_BYTES,
    QUERY_TILE,
    TOP,
    attention_scratch,
    kv_bytes,
    partial_bytes,
    summary_sizes,
)
from ..kernels.ops import ALWAYS, LARGE, NEVER, TOKENS, WANTED
from ..models.spec import DecoderSpec
from ..quant.formats import get_format
from .table import Buffer, Program, Row, pad

__all__ = ["build_decoder"]

MAX_QUERY_ROWS = 128  # bounds the attention's scratch


def build_decoder(spec: DecoderSpec, weight: Callable[[str], Weight], kv_dtype: str, context: int) -> Program:
    """The program of a decoder.  `weight(name)` gives a tensor, in the format in which it shall run."""
    return _Builder(spec, weight, kv_dtype, context).build()


class _Builder:
    def __init__(self, spec: DecoderSpec, weight: Callable[[str], Weight], kv_dtype: str, context: int) -> None:
        self.spec, self.weight = spec, weight
        self.shapes = spec.tensors()
        self.program = Program(spec.vocab, context, kv_dtype)

    def build(self) -> Program:
        spec, program = self.spec, self.program
        self.plan_cache()
        query, key = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
        for name, columns in (
            ("x", spec.hidden), ("h", spec.hidden), ("q", query), ("k", key), ("v", key), ("att", query),
            ("gate", spec.ffn), ("up", spec.ffn),
        ):  # fmt: skip
            program.buffers[name] = Buffer(name, columns)
        program.buffers["last"] = Buffer("last", spec.hidden, WANTED)
        program.buffers["last_h"] = Buffer("last_h", spec.hidden, WANTED)
        program.buffers["logits"] = Buffer("logits", spec.vocab, WANTED)
        self.embed()
        for layer in range(spec.layers):
            self.attention(layer)
            self.feed_forward(layer)
        self.head()
        self.summary()
        return program

    # -- parts of the model ---------------------------------------------------------------------------------

    def plan_cache(self) -> None:
        """Sizes of a page and of the attention's scratch."""
        spec, program = self.spec, self.program
        group = spec.heads // spec.kv_heads
        self.layer_bytes = spec.kv_heads * kv_bytes(program.kv_dtype, spec.head_dim)
        program.page_bytes = spec.layers * self.layer_bytes
        program.query_tile = max(1, min(QUERY_TILE, MAX_QUERY_ROWS // group))
        program.partial_bytes = partial_bytes(group, spec.head_dim)
        scratch = max(attention_scratch(program.query_tile * group, spec.head_dim), PANEL_BYTES)
        program.scratch_bytes = pad(scratch, 128)

    def embed(self) -> None:
        name = self.use_weight("embed")
        weight = self.program.weights[name]
        self.emit(f"embed_{weight.format}", "embed", w=name, y="x", ldy=self.ld("x"), n=self.spec.hidden,
                  **self.blocks(weight, ("groups", "block_bytes")))  # fmt: skip

    def attention(self, layer: int) -> None:
        spec, kv = self.spec, self.program.kv_dtype
        label = f"layer {layer}"
        inputs = self.use_weights(("q", "k", "v"), layer)
        self.norm("attn_norm", layer, "x", "h", inputs)
        for part, name in zip("qkv", inputs, strict=True):
            self.linear(part, layer, name, "h", part, own=True, barrier=ALWAYS if part == "v" else NEVER)
        heads: dict[str, Any] = dict(
            q="q", ldq=self.ld("q"), k="k", v="v", ldk=self.ld("k"), heads=spec.heads, kv_heads=spec.kv_heads,
            head_dim=spec.head_dim, rope_dim=spec.rope.dim, table="rope", layer=layer * self.layer_bytes,
        )  # fmt: skip
        self.emit(f"rope_{kv}", label, barrier=LARGE, **heads)
        (output,) = self.use_weights(("o",), layer)
        records = self.records("att", [output], TOKENS)
        whole = spec.heads // spec.kv_heads * spec.head_dim % GROUP == 0  # heads that a thread has at once
        self.emit(f"attention_{kv}", label, **heads, y="att", ldy=self.ld("att"), scale=spec.head_dim**-0.5,
                  window=spec.windows[layer] or 0, records=records if whole else None)  # fmt: skip
        if records and not whole:
            self.emit("quantize", label, x="att", ldx=self.ld("att"), records=records, groups=self.ld("att") // GROUP)
        self.linear("o", layer, output, "att", "x", accumulate=True)

    def feed_forward(self, layer: int) -> None:
        inputs = self.use_weights(("gate", "up"), layer)
        self.norm("ffn_norm", layer, "x", "h", inputs)
        (down,) = self.use_weights(("down",), layer)
        records, ld = self.records("gate", [down], TOKENS), self.ld("gate")
        gate, up = (self.program.weights[name] for name in inputs)
        if gate.format == up.format and get_format(gate.format).packed:
            self.emit(f"gated_{gate.format}", _label("gate up", layer), x="records", w=inputs[0], up_w=inputs[1],
                      gate="gate", up="up", ldy=ld, bias=self.bias("gate", layer), up_bias=self.bias("up", layer),
                      records=records, own=1, **self.blocks(gate, ("blocks", "groups", "block_bytes")))  # fmt: skip
        else:
            self.linear("gate", layer, inputs[0], "h", "gate", own=True, barrier=NEVER)
            self.linear("up", layer, inputs[1], "h", "up", own=True)
            self.emit("swiglu", f"layer {layer}", gate="gate", up="up", ldx=ld, y="gate", ldy=ld, n=self.spec.ffn,
                      records=records, groups=ld // GROUP)  # fmt: skip
        self.linear("down", layer, down, "gate", "x", accumulate=True)

    def head(self) -> None:
        spec = self.spec
        head = self.use_weight("embed" if spec.tied else "head")
        self.emit("gather", "head", WANTED, x="x", ldx=self.ld("x"), y="last", ldy=self.ld("last"), n=self.ld("x"))
        self.norm("final_norm", None, "last", "last_h", [head])
        self.linear("head", None, head, "last_h", "logits", own=True)

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

    def norm(self, part: str, layer: int | None, x: str, y: str, consumers: list[str]) -> None:
        count = self.program.buffers[x].count
        self.emit("rms_norm", _label(part, layer), count, x=x, ldx=self.ld(x), weight=self.param(part, layer), y=y,
                  ldy=self.ld(y), n=self.spec.hidden, eps=self.spec.norm_eps,
                  records=self.records(y, consumers, count), groups=self.ld(x) // GROUP, own=1,
                  barrier=LARGE)  # fmt: skip

    def linear(
        self, part: str, layer: int | None, name: str, x: str, y: str, *, accumulate: bool = False, own: bool = False,
        barrier: int = ALWAYS,
    ) -> None:  # fmt: skip
        """y (+)= w x.  `own`: x is a norm's output."""
        weight, count = self.program.weights[name], self.program.buffers[x].count
        rows, columns = weight.shape
        packed = get_format(weight.format).packed
        rest: dict[str, Any]
        if packed:
            rest = self.blocks(weight, ("blocks", "groups", "block_bytes"))
        else:
            rest = dict(ldx=self.ld(x), columns=columns)
        self.emit(f"matmul_{weight.format}", _label(part, layer), count, barrier=barrier, y=y, ldy=self.ld(y), w=name,
                  x=_records_name(x, count) if packed else x, rows=rows, bias=self.bias(part, layer),
                  accumulate=int(accumulate), own=int(own), **rest)  # fmt: skip

    def emit(self, op: str, label: str, count: int = TOKENS, barrier: int = ALWAYS, **values: Any) -> None:
        self.program.rows.append(Row(op, values, count, barrier, label))

    # -- operands -----------------------------------------------------------------------------------------------

    def ld(self, buffer: str) -> int:
        return self.program.buffers[buffer].ld

    def has(self, part: str, layer: int | None) -> bool:
        module = part.partition(".")[0]
        return not (module == "head" and self.spec.tied) and self.spec.names.name(part, layer) in self.shapes

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

    def use_weights(self, parts: tuple[str, ...], layer: int) -> list[str]:
        return [self.use_weight(part, layer) for part in parts]

    def bias(self, part: str, layer: int | None) -> str | None:
        """The name of a product's bias, where it has one."""
        return self.param(f"{part}.bias", layer) if self.has(f"{part}.bias", layer) else None

    def param(self, part: str, layer: int | None) -> str:
        """Take a norm weight or a bias into the program, as float32 padded with zeros; -> its name."""
        name = self.spec.names.name(part, layer)
        values = self.weight(name).to_f32()
        padded: NDArray[np.float32] = np.zeros(pad(values.size), np.float32)
        padded[: values.size] = values
        self.program.params[name] = padded
        return name

    def records(self, x: str, consumers: list[str], count: int) -> str | None:
        """The buffer for x as int8 groups, where any of the weights that read it is packed."""
        if not any(get_format(self.program.weights[name].format).packed for name in consumers):
            return None
        name, columns = _records_name(x, count), self.program.buffers[x].columns
        held = self.program.buffers.get(name)
        if held is None or held.columns < columns:
            self.program.buffers[name] = Buffer(name, columns, count, records=True)
        return name

    def blocks(self, weight: Weight, fields: tuple[str, ...]) -> dict[str, Any]:
        """Sizes of a packed weight's row blocks; zeros for a plain one."""
        rows, columns = weight.shape
        blocks, format = pad(rows, BLOCK) // BLOCK, get_format(weight.format)
        sizes = dict(blocks=blocks, groups=pad(columns) // GROUP, block_bytes=weight.data.nbytes // blocks)
        return {name: sizes[name] if format.packed else 0 for name in fields}


def _records_name(x: str, count: int) -> str:
    """The gate's output is written while others still read what it comes from, so it has records of its own."""
    if x == "gate":
        return "gate_records"
    return "records" if count == TOKENS else "last_records"


def _label(part: str, layer: int | None) -> str:
    return part if layer is None else f"layer {layer} {part}"
