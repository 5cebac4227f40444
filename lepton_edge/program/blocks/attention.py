"""Attention: q k v, their positions, the softmax over the cache, and the output projection."""

from typing import TYPE_CHECKING, Any

from ...kernels.layout import GROUP, QUERY_TILE, attention_scratch, kv_bytes, partial_bytes
from ...kernels.ops import ALWAYS, LARGE, NEVER
from ...models.spec import Attention

if TYPE_CHECKING:
    from ..build import Builder

__all__ = ["inputs", "inside", "output"]

MAX_QUERY_ROWS = 128  # bounds the attention's scratch


def inputs(b: "Builder", spec: Attention, i: int) -> list[str]:
    """The weights of q, k and v."""
    return [b.use_weight(part, i) for part in "qkv"]


def inside(b: "Builder", spec: Attention, i: int) -> None:
    """From `h` to the heads' outputs side by side, and their records."""
    kv, label = b.program.kv_dtype, f"layer {i}"
    query, key = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    q, k, v = (b.buffer(part, columns) for part, columns in (("q", query), ("k", key), ("v", key)))
    for part, y in zip("qkv", (q, k, v), strict=True):
        b.linear(part, i, "h", y, own=True, barrier=ALWAYS if part == "v" else NEVER)
    heads: dict[str, Any] = dict(
        q=q, ldq=b.ld(q), k=k, v=v, ldk=b.ld(k), heads=spec.heads, kv_heads=spec.kv_heads, head_dim=spec.head_dim,
        rope_dim=spec.rope.dim, table=b.rope(spec.rope), layer=_place(b, spec),
    )  # fmt: skip
    b.emit(f"rope_{kv}", label, barrier=LARGE, **heads)
    y = _outputs(b, spec)
    ld, records = b.ld(y), b.records(y, [b.use_weight("o", i)])
    whole = spec.heads // spec.kv_heads * spec.head_dim % GROUP == 0  # heads that a thread has at once
    b.emit(f"attention_{kv}", label, **heads, y=y, ldy=ld, scale=spec.head_dim**-0.5, window=spec.window or 0,
           records=records if whole else None)  # fmt: skip
    if records and not whole:
        b.emit("quantize", label, x=y, ldx=ld, records=records, groups=ld // GROUP)


def output(b: "Builder", spec: Attention, i: int, y: str, accumulate: bool) -> None:
    """y (+)= o of the heads' outputs."""
    b.linear("o", i, _outputs(b, spec), y, accumulate=accumulate)


def _outputs(b: "Builder", spec: Attention) -> str:
    return b.buffer("att", spec.heads * spec.head_dim)


def _place(b: "Builder", spec: Attention) -> int:
    """Room for a layer's keys and values in a page, and for the kernel's scratch; -> bytes into the page."""
    program, group = b.program, spec.heads // spec.kv_heads
    place = program.page_bytes
    program.page_bytes += spec.kv_heads * kv_bytes(program.kv_dtype, spec.head_dim)
    tile = max(1, min(QUERY_TILE, MAX_QUERY_ROWS // group))
    program.query_tile = min(program.query_tile, tile)
    program.partial_bytes = max(program.partial_bytes, partial_bytes(group, spec.head_dim))
    program.need_scratch(attention_scratch(tile * group, spec.head_dim))
    return place
