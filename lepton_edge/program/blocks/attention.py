"""Attention: q k v, their positions, the softmax over the cache, and the output projection."""

import math
from typing import TYPE_CHECKING, Any

from ...kernels.layout import GROUP, QUERY_TILE, attention_scratch, kv_bytes, partial_bytes
from ...kernels.ops import ALWAYS, LARGE, NEVER
from ...models.spec import Attention, Norm
from .attention_bias import bias_fields

if TYPE_CHECKING:
    from ..build import Builder

__all__ = ["inputs", "inside", "output", "write_memory"]

SIGHTS = ("causal", "whole", "memory")  # as `kernels.ops` numbers them
NO_ROPE: dict[str, Any] = dict(rope_dim=0, paired=0, table=None)
NO_NORMS: dict[str, Any] = dict(q_norm=None, k_norm=None, norm_step=0, norm_bias=0, norm_eps=0.0, norm_center=0)
MAX_QUERY_ROWS = 128  # bounds the attention's scratch


def inputs(b: "Builder", spec: Attention, i: int) -> list[str]:
    """The weights of q, k and v."""
    parts = ("q",) if spec.sight == "memory" else ("q", "k", "v") if spec.layout == "apart" else ("qkv",)
    return [b.use_weight(spec.prefix + part, i) for part in parts]


def inside(b: "Builder", spec: Attention, i: int) -> None:
    """From `h` to the heads' outputs side by side, and their records."""
    kv, label = b.program.kv_dtype, f"layer {i}"
    if spec.sight == "memory":
        heads = _queries(b, spec, i)
    else:
        heads = _heads(b, spec, i)
        b.emit(f"rope_{kv}", label, barrier=LARGE, **heads)
    y = _outputs(b, spec)
    ld, records = b.ld(y), b.records(y, [b.use_weight(spec.prefix + "o", i)])
    whole = spec.group * spec.head_dim % GROUP == 0  # heads that a thread has at once
    scale = spec.head_dim**-0.5 if spec.scale is None else spec.scale
    b.emit(f"attention_{kv}", label, **heads, y=y, ldy=ld, scale=scale, window=spec.window or 0, cap=spec.cap,
           slopes=b.constant(spec.slopes), records=records if whole else None,
           sinks=b.param("sinks", i) if spec.sinks else None, sight=SIGHTS.index(spec.sight),
           **bias_fields(b, spec, i, heads))  # fmt: skip
    if records and not whole:
        b.emit("quantize", label, x=y, ldx=ld, records=records, groups=ld // GROUP)


def write_memory(b: "Builder") -> None:
    """The keys and values of an encoder's hidden states `x`, for each layer of its decoder, into its own pages.

    The encoder's own keys and values are read no more, so they may lie where those did.
    """
    attentions = b.spec.memory
    b.quantize("memory", "x", [b.use_weight(f"{each.prefix}{part}", i) for i, each in enumerate(attentions)
                               for part in "kv"])  # fmt: skip
    for i, spec in enumerate(attentions):
        columns = spec.kv_heads * spec.head_dim
        k, v = (b.buffer(part, columns) for part in "kv")
        for part, y in (("k", k), ("v", v)):
            b.linear(spec.prefix + part, i, "x", y, barrier=ALWAYS if part == "v" else NEVER)
        b.emit(f"rope_{b.program.kv_dtype}", f"layer {i} memory", q=k, ldq=b.ld(k), q_step=0, k=k, v=v, ldk=b.ld(k),
               k_step=spec.head_dim, heads=0, kv_heads=spec.kv_heads, head_dim=spec.head_dim, layer=_place(b, spec),
               **NO_ROPE, **NO_NORMS)  # fmt: skip


def _queries(b: "Builder", spec: Attention, i: int) -> dict[str, Any]:
    """The rows from `h` to q alone; -> what attention needs to know of it: keys and values are there already."""
    d, q = spec.head_dim, b.buffer("q", spec.heads * spec.head_dim)
    b.linear(spec.prefix + "q", i, "h", q, own=True)
    return dict(q=q, ldq=b.ld(q), q_step=spec.group * d, k=None, v=None, ldk=0, k_step=0, heads=spec.heads,
                kv_heads=spec.kv_heads, head_dim=d, layer=_place(b, spec), **NO_ROPE, **NO_NORMS)  # fmt: skip


def _heads(b: "Builder", spec: Attention, i: int) -> dict[str, Any]:
    """The rows from `h` to q, k and v; -> the fields of rope and attention that say where and what they are."""
    d, group, query, key = spec.head_dim, spec.group, spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    q_step, k_step = group * d, d
    if spec.layout == "apart":
        names = [b.buffer(part, columns) for part, columns in (("q", query), ("k", key), ("v", key))]
        for part, y in zip("qkv", names, strict=True):
            b.linear(part, i, "h", y, own=True, barrier=ALWAYS if part == "v" else NEVER)
        written = dict(zip(names, (query, key, key), strict=True))
    else:
        whole, places = b.buffer("qkv", query + 2 * key), (0, query, query + key)
        if spec.layout == "grouped":
            q_step = k_step = (group + 2) * d
            places = (0, group * d, (group + 1) * d)
        names = [b.part_of(whole, part, place) for part, place in zip("qkv", places, strict=True)]
        b.linear("qkv", i, "h", whole, own=True)
        written = {whole: query + 2 * key}
    q, k, v = names
    norms = _norms(b, spec, i, q, k)
    if spec.clip:
        for name, n in written.items():
            last = name == list(written)[-1]
            b.emit("limit", f"layer {i} clip", x=name, ldx=b.ld(name), n=n, limit=spec.clip, soft=0,
                   barrier=ALWAYS if last else NEVER)  # fmt: skip
    if spec.growth:
        steps = range((b.program.context - 1) // spec.growth_every + 1)
        table = b.constant(tuple(1 + spec.growth * math.log1p(step) for step in steps))
        b.emit("grow", f"layer {i} q", x=q, ldx=b.ld(q), n=query, table=table, every=spec.growth_every)
    return dict(
        q=q, ldq=b.ld(q), q_step=q_step, k=k, v=v, ldk=b.ld(k), k_step=k_step, heads=spec.heads,
        kv_heads=spec.kv_heads, head_dim=d, layer=_place(b, spec), **_positions(b, spec), **norms,
    )  # fmt: skip


def _positions(b: "Builder", spec: Attention) -> dict[str, Any]:
    if spec.rope is None:
        return NO_ROPE
    return dict(rope_dim=spec.rope.dim, paired=int(spec.rope.paired), table=b.rope(spec.rope))


def _norms(b: "Builder", spec: Attention, i: int, q: str, k: str) -> dict[str, Any]:
    """Norms of heads are rope's; those of all heads at once have rows of their own."""
    norm = spec.qk_norm
    if norm is None or spec.qk_norm_over == "all":
        if norm is not None:
            b.norm("q_norm", i, q, q, [], norm=norm, own=False, barrier=NEVER)
            b.norm("k_norm", i, k, k, [], norm=norm, own=False, barrier=ALWAYS)
        return NO_NORMS
    q_norm, k_norm = (_factors(b, spec, norm, part, i) for part in ("q_norm", "k_norm"))
    return dict(q_norm=q_norm, k_norm=k_norm, norm_step=0 if spec.qk_norm_over == "head" else spec.head_dim,
                norm_bias=spec.head_dim if norm.bias else 0, norm_eps=norm.eps,
                norm_center=int(norm.kind == "layer"))  # fmt: skip


def _factors(b: "Builder", spec: Attention, norm: Norm, part: str, i: int) -> str:
    """The weights of a norm of heads, those of each head behind the other's, or a weight and its bias."""
    if spec.qk_norm_over == "each":
        return b.joined([f"{part}@{head}" for head in range(spec.heads if part == "q_norm" else spec.kv_heads)], i)
    return b.joined([part, f"{part}.bias"], i) if norm.bias else b.factors(part, i, norm)


def output(b: "Builder", spec: Attention, i: int, y: str, accumulate: bool) -> None:
    """y (+)= o of the heads' outputs."""
    b.linear(spec.prefix + "o", i, _outputs(b, spec), y, accumulate=accumulate)


def _outputs(b: "Builder", spec: Attention) -> str:
    return b.buffer("att", spec.heads * spec.head_dim)


def _place(b: "Builder", spec: Attention) -> int:
    """Room for a layer's keys and values in a page, and for the kernel's scratch; -> bytes into the page."""
    program, group = b.program, spec.group
    nbytes = spec.kv_heads * kv_bytes(program.kv_dtype, spec.head_dim)
    if spec.sight == "memory":  # in pages of its own, which have nothing else
        place, program.memory_bytes = program.memory_bytes, program.memory_bytes + nbytes
    elif spec.sight == "whole":  # nothing is kept: the next layer writes where this one did
        place, program.page_bytes = 0, max(program.page_bytes, nbytes)
    else:
        place, program.page_bytes = program.page_bytes, program.page_bytes + nbytes
    tile = max(1, min(QUERY_TILE, MAX_QUERY_ROWS // group))
    program.query_tile = min(program.query_tile, tile)
    program.partial_bytes = max(program.partial_bytes, partial_bytes(group, spec.head_dim))
    program.need_scratch(attention_scratch(tile * group, spec.head_dim))
    return place
