"""Attention on the tensor cores, over a cache in f16: what most models need.

A warp has 16 query rows: of a few neighbouring tokens all heads that share a key head, so keys and values are read once
for them (Ainslie et al. 2023); it goes over the keys in chunks with a running maximum and sum (Dao et al. 2022).  In
`mma.m16n8k16` lane 4 g + t holds of a chunk of keys: key 8 j + g, a quarter of its numbers; and of the values the keys
2 t, 2 t + 1, 2 t + 8 and 2 t + 9, an eighth of their numbers.  The order in which numbers of a head are summed does not
matter, so both are read in pieces of 16 bytes as they lie.

`wide`: a warp for each tile of tokens.  `split`: a block for each token, key head and part of the positions; its warps
share them out, and the block that comes last merges the parts.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba import config, cuda

from ..layout import GROUP, PAGE
from ..ops import MEMORY
from .attention import HEADS, KV_HEADS, LAYER, LDQ, LDY, LOWEST, Q_STEP, RECORDS, SCALE, SIGHT, SINKS, Q, Y, limits
from .cache import cache, page_of
from .common import F0, F1, at, more, put_group, room
from .layout import COUNTERS, MEMORY_PAGES, PAGES, PARTIALS, TILES
from .words import LANES, arrive, begin, get_f32, get_i64, jit, put_f32, put_i32

if not config.ENABLE_CUDASIM:
    from .ptx import exp2, get_fresh_f32, get_shared_f32, put_shared_f32, shared, unrolled, zeros

__all__ = ["KERNELS"]

ROWS = 16  # query rows of a warp
SIZES = (32, 64, 96, 128)  # numbers of a head
LOG2E = np.float32(1.4426950408889634)


def keys_of(d: int) -> int:
    """Keys of a chunk: more are under way at once, while registers last."""
    return 32 if d <= 64 else 16


def warps_of(d: int) -> int:
    """Warps of a block that share the positions of a token."""
    return 8 if d <= 64 else 4


def state_size(d: int) -> int:
    """Sums, maxima and weights of both rows, queries."""
    return d // 2 + 4 + d // 2


def query_word(d: int) -> Any:
    """A word (nothing, row g, row g + 8, there, there too) -> the warp's queries as f16 pairs, and then what is left of
    them, as f16 pairs too: registers, as floats.  One f16 alone would leave 1e-3 in the scores.

    Addresses of the lane's quarter of the two heads, and whether they are there.
    """

    def body(e: Any, none: list[Any], up: Any, down: Any, has_up: Any, has_down: Any) -> Sequence[Any]:
        found, rests = [], []
        for s in range(d // 16):
            pairs, left = [], []
            for address, there in ((up, has_up), (down, has_down)):
                values = [x for i in (0, 8) for x in e.get_if(there, e.add(address, e.i64(16 * s + i)), 2)]
                values = [e.max_f(e.f32(-65504.0), e.min_f(e.f32(65504.0), x)) for x in values]
                pairs.append([e.to_f16_pair(*values[:2]), e.to_f16_pair(*values[2:])])
                rounded = [x for pair in pairs[-1] for x in e.f16_pair(pair)]
                rest = [e.sub_f(x, y) for x, y in zip(values, rounded, strict=True)]
                left.append([e.to_f16_pair(*rest[:2]), e.to_f16_pair(*rest[2:])])
            for held, both in ((found, pairs), (rests, left)):
                held += [both[0][0], both[1][0], both[0][1], both[1][1]]
        return [e.bits_f(bits) for bits in found + rests]

    return unrolled(body, 1, "b64", "b64", "b32", "b32", results=d // 2)


def chunk_word(d: int) -> Any:
    """A word (state, keys, values, scale, the first and last key that rows g and g + 8 see) -> the state after a chunk.

    State: sums of d / 8 tiles of 4, maxima of both rows, sums of weights of both rows (of the lane's keys), queries.
    Keys: address of the lane's quarter of key g; values: of its eighth of key 2 t.  scale: with log2(e).  Limits count
    from the chunk's key 2 t.
    """
    keys, tiles, row = keys_of(d), d // 8, 2 * d  # bytes of a position's numbers

    def body(e: Any, state: list[Any], k: Any, v: Any, scale: Any, *bounds: Any) -> Sequence[Any]:
        total, rest = state[: 4 * tiles], state[4 * tiles :]
        peaks, weights = rest[:2], rest[2:4]
        q = e.as_bits(rest[4:])
        scores: list[list[Any]] = []
        for j in range(keys // 8):
            key = [bits for i in range(d // 32) for bits in e.read(k, 4, 8 * j * row + 16 * i)]
            held = [e.f32(0.0)] * 4
            for s in range(d // 16):
                for first in (d // 4 + 4 * s, 4 * s):
                    held = e.mma_f16(held, q[first : first + 4], key[2 * s : 2 * s + 2])
            scores.append([
                e.within(e.mul_f(held[c], scale), 8 * j + c % 2, bounds[2 * (c // 2)], bounds[2 * (c // 2) + 1])
                for c in range(4)
            ])  # fmt: skip
        for r in range(2):
            peak = peaks[r]
            for held in scores:
                peak = e.max_f(peak, e.max_f(held[2 * r], held[2 * r + 1]))
            for distance in (1, 2):
                peak = e.max_f(peak, e.from_lane(peak, distance))
            fade = e.exp2(e.sub_f(peaks[r], peak))
            peaks[r], weights[r] = peak, e.mul_f(weights[r], fade)
            for held in scores:
                for c in (2 * r, 2 * r + 1):
                    held[c] = e.exp2(e.sub_f(held[c], peak))
                    weights[r] = e.add_f(weights[r], held[c])
            for n in range(tiles):
                for c in (2 * r, 2 * r + 1):
                    total[4 * n + c] = e.mul_f(total[4 * n + c], fade)
        for i in range(keys // 16):
            low, high = scores[2 * i], scores[2 * i + 1]
            p = [e.to_f16_pair(*pair) for pair in (low[:2], low[2:], high[:2], high[2:])]
            value = [e.eighth(v, d, (16 * i + away) * row) for away in (0, 1, 8, 9)]
            for n in range(tiles):
                order = 0x7632 if n % 2 else 0x5410
                b = [e.permute(value[a][n // 2], value[a + 1][n // 2], order) for a in (0, 2)]
                total[4 * n : 4 * n + 4] = e.mma_f16(total[4 * n : 4 * n + 4], p, b)
        return [*total, *peaks, *weights, *rest[4:]]

    return unrolled(body, state_size(d), "b64", "b64", "f32", *["b32"] * 4)


def join_words(d: int) -> tuple[Any, Any, Any]:
    """Words that begin a state (queries), and that give its weights' sums over the lanes, and its maxima."""
    tiles, size = d // 8, state_size(d)

    def begin(e: Any, q: list[Any]) -> Sequence[Any]:
        return [e.f32(0.0)] * (4 * tiles) + [e.f32(float(LOWEST))] * 2 + [e.f32(0.0)] * 2 + q

    def weights(e: Any, state: list[Any]) -> Sequence[Any]:
        found = state[4 * tiles + 2 : 4 * tiles + 4]
        for distance in (1, 2):
            found = [e.add_f(x, e.from_lane(x, distance)) for x in found]
        return found

    def peaks(e: Any, state: list[Any]) -> Sequence[Any]:
        return state[4 * tiles : 4 * tiles + 2]

    return unrolled(begin, d // 2, results=size), unrolled(weights, size, results=2), unrolled(peaks, size, results=2)


def out_word(d: int, to_shared: bool) -> Any:
    """A word (state, row, row + 8, factor of both, whether they are there) that writes a quarter of two rows' sums."""
    tiles, size = d // 8, state_size(d)

    def body(e: Any, state: list[Any], up: Any, down: Any, by_up: Any, by_down: Any, has_up: Any,
             has_down: Any) -> Sequence[Any]:  # fmt: skip
        for r, (address, by, there) in enumerate(((up, by_up, has_up), (down, by_down, has_down))):
            values = [e.mul_f(state[4 * n + 2 * r + c], by) for c in range(2) for n in range(tiles)]
            for i in range(0, len(values), 2):
                if to_shared:
                    e.put_shared(address, values[i : i + 2], 4 * i)
                else:
                    e.put_if(there, e.add(address, e.i64(4 * i)), values[i : i + 2])
        return state[:1]

    kind = "b32" if to_shared else "b64"
    return unrolled(body, size, kind, kind, "f32", "f32", "b32", "b32", results=1)


def sweep_of(d: int) -> Callable[..., Any]:
    """A word (row, context, state, t of the pages, g, first and last chunk, step, limits) -> the state after them."""
    chunk, keys = chunk_word(d), keys_of(d)
    head_bytes = cache("f16").head

    @jit
    def sweep(row, context, state, token, g, start, stop, step, up_first, up_last, down_first, down_last):
        lane = cuda.threadIdx.x % LANES
        pages, scale = MEMORY_PAGES if at(row, SIGHT) == MEMORY else PAGES, get_f32(row + SCALE) * LOG2E
        of_key, of_value = (lane // 4) * d * 2 + lane % 4 * (d // 2), (lane % 4 * 2) * d * 2 + lane // 4 * (d // 4)
        here = at(row, LAYER) + g * head_bytes(d)
        for i in range(start, stop, step):
            base = i * keys
            k = page_of(context, pages, token, base) + here + base % PAGE * d * 2
            away = base + lane % 4 * 2
            of_up = np.int32(up_first - away), np.int32(up_last - away)
            of_down = np.int32(down_first - away), np.int32(down_last - away)
            state = chunk(state, k + of_key, k + PAGE * d * 2 + of_value, scale, of_up[0], of_up[1], of_down[0],
                          of_down[1])  # fmt: skip
        return state

    return sweep


@jit
def head_at(row, field, ld, step, t, g, h, d):
    """Where head h of the group of key head g begins for token t, in q or y."""
    return at(row, field) + (t * at(row, ld) + g * step + h * d) * 4


@jit
def with_sink(row, h, weights, peak):
    """The sum of a head's weights, relative to its maximum, with that of its sink, if it has one."""
    if at(row, SINKS) == 0:
        return weights
    return weights + exp2(get_f32(at(row, SINKS) + 4 * h) * LOG2E - peak)


def wide_kernel(d: int) -> Callable[..., None]:
    """Block (x, y): a warp for each of `more` tiles of neighbouring tokens of a sequence, and key head y."""
    queries, sweep, keys = query_word(d), sweep_of(d), keys_of(d)
    start, (state_of, weights_of, peaks_of), out = zeros(1), join_words(d), out_word(d, False)

    def kernel(row, context, extra):
        lane, kv_heads = cuda.threadIdx.x % LANES, at(row, KV_HEADS)
        group, g = at(row, HEADS) // kv_heads, cuda.blockIdx.y
        # The last tokens see most: begin with them.
        tile = more(extra) - 1 - (cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x) // LANES
        if tile < 0:
            return
        first_token, tokens = get_i64(at(context, TILES) + 16 * tile), get_i64(at(context, TILES) + 16 * tile + 8)
        r = lane // 4
        up, down = first_token + r // group, first_token + (r + 8) // group
        has_up, has_down = r // group < tokens, (r + 8) // group < tokens
        if not has_up:
            up = first_token
        if not has_down:
            down = first_token
        step = at(row, Q_STEP)
        begin()
        q = queries(start(), head_at(row, Q, LDQ, step, up, g, r % group, d) + lane % 4 * d,
                    head_at(row, Q, LDQ, step, down, g, (r + 8) % group, d) + lane % 4 * d,
                    np.int32(has_up), np.int32(has_down))  # fmt: skip
        up_first, up_last = limits(row, context, up)
        down_first, down_last = limits(row, context, down)
        low, _ = limits(row, context, first_token)
        _, high = limits(row, context, first_token + tokens - 1)
        state = sweep(row, context, state_of(q), first_token, g, low // keys, high // keys + 1, 1,
                      up_first, up_last, down_first, down_last)  # fmt: skip
        weight, peak = weights_of(state), peaks_of(state)
        up_weight = with_sink(row, g * group + r % group, weight[0], peak[0])
        down_weight = with_sink(row, g * group + (r + 8) % group, weight[1], peak[1])
        out(state, head_at(row, Y, LDY, group * d, up, g, r % group, d) + lane % 4 * d,
            head_at(row, Y, LDY, group * d, down, g, (r + 8) % group, d) + lane % 4 * d,
            F1 / up_weight, F1 / down_weight, np.int32(has_up), np.int32(has_down))  # fmt: skip

    return kernel


@jit
def put_result(row, t, h, d, c, total, weights, peak):
    """Number c of head h of token t.  The lanes of a warp have neighbours, from a multiple of 32 on: a group of y."""
    y, value = at(row, Y) + (t * at(row, LDY) + h * d + c) * 4, total / with_sink(row, h, weights, peak)
    put_f32(y, value)
    if at(row, RECORDS) != 0:
        put_group(value, y, at(row, RECORDS), at(row, LDY) // GROUP, room(row), t, (h * d + c) // GROUP)


def split_kernel(d: int) -> Callable[..., None]:
    """Block (x, y, z): key head x, token y, part z of the positions it sees."""
    queries, sweep, keys, warps = query_word(d), sweep_of(d), keys_of(d), warps_of(d)
    start, (state_of, weights_of, peaks_of), out = zeros(1), join_words(d), out_word(d, True)
    row_bytes = 4 * (d + 2)  # of a query row's sums, its weights' sum and its maximum
    memory = shared(f"rows_{d}", warps * ROWS * row_bytes)

    def kernel(row, context, extra):
        lane, warp, threads = cuda.threadIdx.x % LANES, cuda.threadIdx.x // LANES, warps * LANES
        g, token, part, parts = cuda.blockIdx.x, cuda.blockIdx.y, cuda.blockIdx.z, cuda.gridDim.z
        group, r = at(row, HEADS) // at(row, KV_HEADS), lane // 4
        step, down = at(row, Q_STEP), min(r + 8, group - 1)
        begin()
        q = queries(start(), head_at(row, Q, LDQ, step, token, g, min(r, group - 1), d) + lane % 4 * d,
                    head_at(row, Q, LDQ, step, token, g, down, d) + lane % 4 * d,
                    np.int32(r < group), np.int32(r + 8 < group))  # fmt: skip
        first, last = limits(row, context, token)
        state = sweep(row, context, state_of(q), token, g, first // keys + part * warps + warp, last // keys + 1,
                      parts * warps, first, last, first, last)  # fmt: skip
        weight, peak, held = weights_of(state), peaks_of(state), memory()
        mine = held + (warp * ROWS + r) * row_bytes
        out(state, np.int32(mine + lane % 4 * d), np.int32(mine + 8 * row_bytes + lane % 4 * d), F1, F1, 1, 1)
        if lane % 4 == 0:
            put_shared_f32(np.int32(mine + 4 * d), weight[0])
            put_shared_f32(np.int32(mine + 4 * d + 4), peak[0])
            put_shared_f32(np.int32(mine + 8 * row_bytes + 4 * d), weight[1])
            put_shared_f32(np.int32(mine + 8 * row_bytes + 4 * d + 4), peak[1])
        cuda.syncthreads()
        item = token * at(row, KV_HEADS) + g
        partials = at(context, PARTIALS) + COUNTERS + item * parts * ROWS * row_bytes
        for i in range(cuda.threadIdx.x, group * d, threads):
            h, c = i // d, i % d
            peak_here = LOWEST
            for w in range(warps):
                peak_here = max(peak_here, get_shared_f32(np.int32(held + (w * ROWS + h) * row_bytes + 4 * d + 4)))
            total, weights = F0, F0
            for w in range(warps):
                at_row = held + (w * ROWS + h) * row_bytes
                fade = exp2(get_shared_f32(np.int32(at_row + 4 * d + 4)) - peak_here)
                total += fade * get_shared_f32(np.int32(at_row + 4 * c))
                weights += fade * get_shared_f32(np.int32(at_row + 4 * d))
            if parts == 1:
                put_result(row, token, g * group + h, d, c, total, weights, peak_here)
            else:
                to = partials + (part * ROWS + h) * row_bytes
                put_f32(to + 4 * c, total)
                if c == 0:
                    put_f32(to + 4 * d, weights)
                    put_f32(to + 4 * d + 4, peak_here)
        if parts == 1:
            return
        cuda.threadfence()
        cuda.syncthreads()
        counter = at(context, PARTIALS) + 4 * item
        if cuda.threadIdx.x == 0:
            put_shared_f32(held, np.float32(arrive(counter)))
        cuda.syncthreads()
        if get_shared_f32(held) != np.float32(parts - 1):
            return
        if cuda.threadIdx.x == 0:
            put_i32(counter, 0)
        for i in range(cuda.threadIdx.x, group * d, threads):
            h, c = i // d, i % d
            peak_here = LOWEST
            for z in range(parts):
                peak_here = max(peak_here, get_fresh_f32(partials + (z * ROWS + h) * row_bytes + 4 * d + 4))
            total, weights = F0, F0
            for z in range(parts):
                at_row = partials + (z * ROWS + h) * row_bytes
                fade = exp2(get_fresh_f32(at_row + 4 * d + 4) - peak_here)
                total += fade * get_fresh_f32(at_row + 4 * c)
                weights += fade * get_fresh_f32(at_row + 4 * d)
            put_result(row, token, g * group + h, d, c, total, weights, peak_here)

    return kernel


def kernels() -> dict[str, Callable[[], Any]]:
    found: dict[str, Callable[[], Any]] = {}
    for d in SIZES:
        found[f"attention_wide{d}"] = lambda d=d: wide_kernel(d)
        found[f"attention_split{d}"] = lambda d=d: split_kernel(d)
    return found


KERNELS = kernels()
