"""The end of a program: what a model says, and what a sampler reads of it."""

from typing import TYPE_CHECKING, Any

from ..kernels.layout import GROUP, TOP, summary_sizes
from ..kernels.ops import ACTIVATIONS, ALWAYS, WANTED
from ..models.spec import Head
from .blocks.attention import write_memory
from .table import Buffer

if TYPE_CHECKING:
    from .build import Builder

__all__ = ["write_outputs"]


def write_outputs(b: "Builder") -> None:
    """A decoder's logits and their summary; an encoder's hidden states, and what its head says of them."""
    if b.spec.causal:
        _language_head(b)
        _summary(b)
        return
    _states(b)
    if b.spec.memory:
        write_memory(b)
        b.program.state_rows = len(b.program.rows)
    if b.spec.head is not None:
        _head(b, b.spec.head)


def _states(b: "Builder") -> None:
    """`x`: the hidden states that an encoder gives."""
    if b.spec.final_norm:
        b.norm("final_norm", None, "x", "x", [], own=False, barrier=ALWAYS)
    b.program.state_rows = len(b.program.rows)


def _head(b: "Builder", head: Head) -> None:
    """`x` of the wanted tokens, or of their sequences, to what the head gives of them in `logits`."""
    x, out = b.buffer("last", b.spec.hidden, WANTED), "embed" if head.tied else "head"
    pool = {"mean": "average", "ends": "ends"}.get(head.pool, "gather")
    halves = {"split": b.spec.hidden // 2} if pool == "ends" else {}
    b.emit(pool, "head", WANTED, x="x", ldx=b.ld("x"), y=x, ldy=b.ld(x), n=b.ld(x), **halves)
    if head.dense:
        b.quantize("head_dense", x, [b.use_weight("head_dense")])
        y = b.buffer("dense", head.dense_width or b.spec.hidden, WANTED)
        b.linear("head_dense", None, x, y)
        x, reader = y, b.use_weight(out)
        _activated(b, head.dense, "head_dense", x, [] if head.dense_norm else [reader])
        if head.dense_norm:
            b.norm("head_norm", None, x, x, [reader], own=False, barrier=ALWAYS)
    else:
        b.quantize("head", x, [b.use_weight(out)])
    b.buffer("logits", head.outputs, WANTED)
    b.product(b.use_weight(out), "head", x, "logits", bias=b.bias("head", None))
    b.program.logits_rows = len(b.program.rows)


def _activated(b: "Builder", kind: str, label: str, x: str, readers: list[str]) -> None:
    """x = activation(x), and its records where a weight among `readers` is packed."""
    held, ld = b.program.buffers[x], b.ld(x)
    if kind == "tanh":
        b.emit("squash", label, held.count, y=x, ld=ld, n=held.columns, logistic=0,
               records=b.records(x, readers))  # fmt: skip
    else:
        b.emit("activate", label, held.count, gate=x, up=None, ldx=ld, y=x, ldy=ld, n=held.columns,
               activation=ACTIVATIONS.index(kind), records=b.records(x, readers), groups=ld // GROUP)  # fmt: skip


def _language_head(b: "Builder") -> None:
    """`x` of the wanted tokens to `logits`."""
    spec, part, x = b.spec, "embed" if b.spec.tied else "head", "last"
    b.buffer("last", spec.hidden, WANTED)
    b.emit("gather", "head", WANTED, x="x", ldx=b.ld("x"), y=x, ldy=b.ld(x), n=b.ld(x))
    readers = [b.use_weight("project_out" if spec.projected else part)]
    if spec.final_norm:
        x = b.buffer("last_h", spec.hidden, WANTED)
        b.norm("final_norm", None, "last", x, readers, scale=spec.logit_scale)
    else:
        b.quantize("head", x, readers)
    b.program.states, b.program.state_rows = x, len(b.program.rows)
    if spec.projected:
        y = b.buffer("last_out", spec.embed_width, WANTED)
        b.linear("project_out", None, x, y, own=spec.final_norm)
        x = y
        b.quantize("head", x, [b.use_weight(part)])
    b.buffer("logits", spec.vocab, WANTED)
    b.product(b.use_weight(part), "head", x, "logits", bias=b.bias("head", None), own=x == "last_h",
              delta=b.delta("head"))  # fmt: skip
    if spec.logit_cap:
        b.emit("limit", "head", WANTED, x="logits", ldx=b.ld("logits"), n=spec.vocab, limit=spec.logit_cap,
               soft=1)  # fmt: skip


def _summary(b: "Builder") -> None:
    """What a sampler reads of the logits; an executor may stop before these rows."""
    program, vocab = b.program, b.spec.vocab
    chunks, size = summary_sizes(vocab)
    for buffer in (
        Buffer("peaks", size, WANTED), Buffer("top", TOP + 2 + chunks, WANTED),
        Buffer("top_ids", TOP, WANTED, integers=True),
    ):  # fmt: skip
        program.buffers[buffer.name] = buffer
    program.logits_rows = len(program.rows)
    logits: dict[str, Any] = dict(x="logits", ldx=b.ld("logits"), n=vocab)
    b.emit("block_peaks", "summary", WANTED, y="peaks", ldy=b.ld("peaks"), **logits)
    b.emit("top", "summary", WANTED, peaks="peaks", ldp=b.ld("peaks"), y="top", ldy=b.ld("top"),
           ids="top_ids", **logits)  # fmt: skip
