"""Which kernels run a program's rows on a GPU, and in which shapes: decided once for a plan, by numbers alone.

Rows that do not wait for each other and have their input in common become one launch.  Rows that no kernel runs stay
with the CPU.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...kernels.cuda.layout import MAX_HEAD, PARTS, SPLITS
from ...kernels.layout import GROUP, TOP_CHUNK
from ...kernels.ops import CACHES, NEVER, PLAIN, TOKENS
from ...program import Program
from ...program.table import Row
from .device import Launch, Shape

__all__ = ["Call", "Sizes", "lower", "query_tile"]

THREADS = 256
WARPS = THREADS // 32
PACKED = ("q8", "q4")  # of those that are packed, the ones with kernels here
ROWS = 16  # query rows of attention's warps
FAST_HEADS = (32, 64, 96, 128)
SPLIT_TOKENS = 64  # tokens up to which the columns of a packed weight are split over warps
MAX_BLOCKS = 65535  # along y of a grid
EACH_WARP = 2  # chunks of positions that a warp of split attention has, at least

ELEMENTWISE = ("quantize", "activate", "squash", "limit", "grow", "gather", "average")
ON_DEVICE = frozenset((
    "rms_norm", "layer_norm", *ELEMENTWISE, "block_peaks", "top",
    *(f"embed_{f}" for f in PLAIN + PACKED), *(f"matmul_{f}" for f in PLAIN + PACKED), *(f"gated_{f}" for f in PACKED),
    *(f"{op}_{c}" for op in ("rope", "attention") for c in CACHES),
))  # fmt: skip


class Sizes(NamedTuple):
    """Of a step: tokens, wanted ones, tiles of neighbours, positions that a token sees at most; and the GPU's
    processors."""

    tokens: int
    wanted: int
    tiles: int
    seen: int
    processors: int


Choice = tuple[str, int, int, Shape]


@dataclass(frozen=True)
class Call:
    """A launch for a row.  kernels: all that it may need; choose(sizes) -> (kernel, tokens, `more`, shape), None
    for no launch."""

    row: int
    kernels: tuple[str, ...]
    choose: Callable[[Sizes], Choice | None]

    def launch(self, table: int, header: int, row_bytes: int, sizes: Sizes) -> list[Launch]:
        """With the addresses of the table and of the step's header; one or none."""
        chosen = self.choose(sizes)
        if chosen is None:
            return []
        kernel, tokens, more, shape = chosen
        return [(kernel, table + self.row * row_bytes, header, tokens | more << 32, shape)]


def lower(program: Program, fast: bool) -> list[list[Call] | range]:
    """What runs a program's rows, in their order: launches, or rows that stay with the CPU.

    fast: whether the GPU has tensor cores; the simulator has none.
    """
    found: list[list[Call] | range] = []
    i, rows = 0, program.rows
    while i < len(rows):
        if not _on_device(rows[i]):
            if found and isinstance(found[-1], range):
                found[-1] = range(found[-1].start, i + 1)
            else:
                found.append(range(i, i + 1))
            i += 1
            continue
        if not found or isinstance(found[-1], range):
            found.append([])
        calls = found[-1]
        assert isinstance(calls, list)
        stop = _group_end(rows, i)
        calls.extend(_calls(program, i, rows[i:stop], fast))
        i = stop
    return found


def query_tile(program: Program) -> int:
    """Tokens of a tile, so that any layer's query rows fit a warp's."""
    groups = [_group(row) for row in program.rows if row.op.startswith("attention")]
    return max(1, min([ROWS // group for group in groups], default=ROWS))


def _on_device(row: Row) -> bool:
    values = row.values
    if row.op not in ON_DEVICE or values.get("order") is not None:
        return False
    return not row.op.startswith("attention") or int(values["head_dim"] or 0) <= MAX_HEAD


def _group_end(rows: list[Row], i: int) -> int:
    """The row after those from i on that are products of the same x, each of which the next need not wait for."""
    first, stop = rows[i], i + 1
    while (
        first.op.startswith("matmul") and stop < len(rows) and rows[stop - 1].barrier == NEVER
        and _on_device(rows[stop]) and rows[stop].op == first.op and rows[stop].count == first.count
        and rows[stop].values["x"] == first.values["x"]
    ):  # fmt: skip
        stop += 1
    return stop


def _calls(program: Program, i: int, rows: list[Row], fast: bool) -> Iterable[Call]:
    row = rows[0]
    kind, _, format = row.op.partition("_")
    count = _counter(row)
    if kind in ("matmul", "gated") and format in PACKED:
        parts = len(rows) + (kind == "gated" and row.values["up_w"] is not None)
        blocks = [int(each.values["blocks"] or 0) for each in rows] * (2 if parts > len(rows) else 1)
        yield _packed(i, row.op, parts, blocks, count, fast)
        if kind == "gated":
            yield _warps(i, f"activate_{format}", int(row.values["ldy"] or 0) // GROUP, count)
    elif kind == "matmul":
        yield _plain(program, i, rows, count, fast)
    elif kind == "attention":
        fast = fast and _has_fast(row)
        yield _attention(i, row) if fast else _attention_of_any_kind(i, row)
        if row.values["records"] is not None:
            yield _records(i, row, fast)
    elif row.op == "top":
        yield Call(i, ("top",), lambda sizes: ("top", sizes.wanted, 0, (sizes.wanted, 1, 1, 512)))
    elif row.op == "block_peaks":
        chunks = -(-int(row.values["n"] or 0) // TOP_CHUNK)
        yield Call(i, (row.op,), lambda sizes: (row.op, sizes.wanted, 0, (chunks, sizes.wanted, 1, THREADS)))
    elif row.op.endswith("norm"):
        threads = min(512, max(128, 32 * int(row.values["groups"] or 0)))
        yield Call(i, (row.op,), lambda sizes: (row.op, count(sizes), 0, (count(sizes), 1, 1, threads)))
    else:
        yield _warps(i, row.op, _warps_of(row), count)


def _counter(row: Row) -> Callable[[Sizes], int]:
    if row.count == TOKENS:
        return lambda sizes: sizes.tokens
    return lambda sizes: sizes.wanted


def _warps_of(row: Row) -> int:
    """How many warps one token has work for."""
    values: dict[str, Any] = dict(row.values)
    if row.op.startswith("rope"):
        return int(values["heads"] + 2 * values["kv_heads"])
    columns = int(values.get("ldy") or values.get("ld") or values["ldx"])
    return max(1, columns // GROUP)


def _warps(i: int, kernel: str, each: int, count: Callable[[Sizes], int]) -> Call:
    """A kernel that has `each` warps for every token."""
    blocks, threads = -(-each // WARPS), 32 * min(WARPS, each)

    def choose(sizes: Sizes) -> Choice:
        tokens = count(sizes)
        return kernel, tokens, 0, (blocks, min(tokens, MAX_BLOCKS), 1, threads)

    return Call(i, (kernel,), choose)


def _packed(i: int, op: str, parts: int, blocks: list[int], count: Callable[[Sizes], int], fast: bool) -> Call:
    if not fast:
        return Call(i, (op,), lambda sizes: (op, count(sizes), parts, (1, 1, 1, THREADS)))
    single, double = sum(blocks), sum(-(-n // 2) for n in blocks)

    def choose(sizes: Sizes) -> Choice:
        n = count(sizes)
        if n > SPLIT_TOKENS:
            return f"{op}_wide", n, parts, (-(-double // 4), -(-n // 64), 1, 128)
        tiles = next(tiles for tiles in (1, 2, 4, 8) if 8 * tiles >= min(n, 64))
        return f"{op}_{tiles}", n, parts, (single, -(-n // (8 * tiles)), 1, 256)

    return Call(i, tuple(f"{op}_{shape}" for shape in ("wide", 1, 2, 4, 8)), choose)


def _plain(program: Program, i: int, rows: list[Row], count: Callable[[Sizes], int], fast: bool) -> Call:
    op, values = rows[0].op, rows[0].values
    columns, heights = int(values["columns"] or 0), [int(row.values["rows"] or 0) for row in rows]
    x = program.buffers[str(values["x"])]
    aligned = fast and x.first % 4 == 0 and columns % 8 == 0
    square = aligned and columns % 16 == 0 and all(n % 16 == 0 for n in heights)
    parts, outs = len(rows), [program.buffers[str(row.values["y"])] for row in rows]
    square = square and all(y.first % 2 == 0 for y in outs)

    def choose(sizes: Sizes) -> Choice:
        n = count(sizes)
        if not aligned or (n > 16 and not square):
            return op, n, parts, (1 + min(16 * sizes.processors, -(-sum(heights) * n // WARPS)), 1, 1, THREADS)
        if n <= 4 or not square:
            tokens = 1 if n == 1 else 4
            return f"{op}_few{tokens}", n, parts, (-(-sum(heights) // WARPS), -(-n // tokens), 1, THREADS)
        if n <= 32:
            return f"{op}_2", n, parts, (-(-sum(heights) // 64), -(-n // 16), 1, 128)
        blocks = sum(-(-height // 32) for height in heights)
        return f"{op}_wide", n, parts, (-(-blocks // 4), -(-n // 64), 1, 128)

    names = (op, *(f"{op}_few{n}" for n in (1, 4) if aligned), *(f"{op}_{n}" for n in (2, "wide") if square))
    return Call(i, names, choose)


def _group(row: Row) -> int:
    return int(row.values["heads"] or 0) // int(row.values["kv_heads"] or 1)


def _has_fast(row: Row) -> bool:
    """Whether the tensor cores' kernels know all that an attention's row asks for."""
    rare = any(row.values.get(name) for name in ("cap", "slopes", "distances", "q_terms"))
    return row.op == "attention_f16" and row.values["head_dim"] in FAST_HEADS and _group(row) <= ROWS and not rare


def _single(sizes: Sizes) -> bool:
    """Whether every token is of another sequence."""
    return sizes.tiles == sizes.tokens


def _attention(i: int, row: Row) -> Call:
    values: dict[str, Any] = dict(row.values)
    d, kv_heads = values["head_dim"], values["kv_heads"]
    chunk, warps = (32, 8) if d <= 64 else (16, 4)  # as in attention_fast.py

    def choose(sizes: Sizes) -> Choice:
        if not _single(sizes):
            return f"attention_wide{d}", sizes.tokens, sizes.tiles, (-(-sizes.tiles // 4), kv_heads, 1, 128)
        seen = min(sizes.seen, values["window"] or sizes.seen)
        wanted = -(-seen // (chunk * warps * EACH_WARP))
        most = min(SPLITS, max(1, PARTS // (sizes.tokens * kv_heads)))
        return f"attention_split{d}", sizes.tokens, 0, (kv_heads, sizes.tokens, max(1, min(most, wanted)), 32 * warps)

    return Call(i, (f"attention_wide{d}", f"attention_split{d}"), choose)


def _attention_of_any_kind(i: int, row: Row) -> Call:
    heads = int(row.values["heads"] or 0)

    def choose(sizes: Sizes) -> Choice:
        blocks = max(1, min(16 * sizes.processors, -(-heads * sizes.tokens // WARPS)))
        return row.op, sizes.tokens, 0, (blocks, 1, 1, THREADS)

    return Call(i, (row.op,), choose)


def _records(i: int, row: Row, fast: bool) -> Call:
    """Attention's output as int8 groups; the split kernel has done it."""
    plain = _warps(i, "attention_records", int(row.values["ldy"] or 0) // GROUP, _counter(row))
    return Call(i, plain.kernels, lambda sizes: None if fast and _single(sizes) else plain.choose(sizes))
