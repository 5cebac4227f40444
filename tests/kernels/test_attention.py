"""softmax(q k^T scale) v over the cache: windows, page borders, several sequences, shared key heads."""

import numpy as np
import pytest
from kernels.harness import EMULATED, ISAS, PAGE, PLAIN_HEADS, Cache, Rig, U, record_bytes

from lepton_edge.kernels.layout import (
    EDGE,
    ENDS,
    GROUP,
    MEMORY_ENDS,
    MEMORY_SLOTS,
    PART_PAGES,
    QUERY_TILE,
    SPLIT_ITEMS,
    attention_scratch,
    partial_bytes,
)
from lepton_edge.kernels.ops import CACHES, CAUSAL, LARGE
from lepton_edge.program.blocks.attention import MAX_QUERY_ROWS

each_isa = pytest.mark.parametrize("isa", ISAS)
each_kind = pytest.mark.parametrize("kind", CACHES)
EXP, TINY = 2e-7, 2.0**-126  # relative error of the kernels' exp2; the smallest float32 that is normal


class Attention:
    """Sequences with full caches, and a batch of (slot, first position, tokens) runs over them."""

    def __init__(self, isa, kind, heads, kv_heads, d, lengths, runs, *, window=0, seed=0, scale=1.0, tile=None,
                 split=False, cap=0.0, slopes=None, sinks=None, sight=CAUSAL, memory=(), added=None):  # fmt: skip
        """`tile`: tokens of a tile at most, if not as many as the engine takes.  `split`: long caches may be.
        memory: the slot that each slot's tokens attend to.  added: numbers [heads, 2 span + 1] of distances."""
        rng = np.random.default_rng(seed)
        self.heads, self.group, self.d, self.window = heads, heads // kv_heads, d, window
        self.cap, self.slopes, self.sinks = cap, slopes, sinks
        slots = [slot for slot, _, count in runs for _ in range(count)]
        self.positions = [first + i for _, first, count in runs for i in range(count)]
        self.slots, t = slots, len(slots)
        self.sight, self.added, self.lengths = sight, added, lengths
        self.seen = [memory[slot] for slot in slots] if memory else slots
        ends = [lengths[slot] - 1 for slot in self.seen]
        query_tile = max(1, min(QUERY_TILE, MAX_QUERY_ROWS // self.group))
        self.rig = rig = Rig(isa, t, slots=slots, positions=self.positions, tiles=tiles(runs, tile or query_tile),
                             scratch_bytes=attention_scratch(query_tile * self.group, d),
                             partial_bytes=partial_bytes(self.group, d) if split else 0,
                             lists={ENDS: ends, MEMORY_ENDS: ends, MEMORY_SLOTS: self.seen})  # fmt: skip
        self.cache = Cache(rig.memory, kind, kv_heads, d, lengths, layer=128)
        rig.pages = self.cache.table
        self.keys, self.values = [], []
        for slot, length in enumerate(lengths):
            k, v = (rng.standard_normal((length, kv_heads, d)).astype(self.cache.dtype) for _ in range(2))
            k = (k * scale).astype(self.cache.dtype)
            self.cache.write(slot, k, v)
            k, v = self.cache.read(slot, length)  # of q8, what the codes stand for
            self.keys.append(k)
            self.values.append(v[:, :, :d])
        q = self.q_row = rig.memory.padded(np.zeros((t, heads * d), np.float32))
        self.set_queries(rng.standard_normal((t, heads, d)).astype(np.float32))
        self.y = rig.memory.padded(np.full((t, heads * d), 7, np.float32))
        self.scale = d**-0.5
        rig.row(f"attention_{kind}", q=q, ldq=q.shape[1], k=None, v=None, ldk=0, heads=heads, kv_heads=kv_heads,
                head_dim=d, rope_dim=0, table=None, layer=128, y=self.y, ldy=q.shape[1], scale=self.scale,
                window=window, records=None, q_step=self.group * d, k_step=d, cap=cap,
                slopes=None if slopes is None else rig.memory.padded(slopes[None]),
                sinks=None if sinks is None else rig.memory.padded(sinks[None]), sight=sight, **self.table(),
                **PLAIN_HEADS)  # fmt: skip

    def table(self):
        """The numbers of distances as the op takes them, the ends repeated."""
        if self.added is None:
            return {}
        span = self.added.shape[1] // 2
        wide = np.pad(self.added / np.log(2), ((0, 0), (EDGE, EDGE)), "edge")
        wide = np.pad(wide, ((0, 0), (0, -wide.shape[1] % 16))).astype(np.float32)
        return dict(distances=self.rig.memory.array(wide), span=span)

    def set_queries(self, q):
        self.q = q
        self.q_row[:, : self.heads * self.d] = q.reshape(len(q), -1)

    def run(self, threads=1):
        self.y[:, : self.heads * self.d] = 7
        self.rig.run(threads)
        assert not self.y[:, self.heads * self.d :].any(), "padding is no longer zero"
        return self.y[:, : self.heads * self.d].reshape(-1, self.heads, self.d)

    def expected(self):
        """(y, bound on the error), float64 [T, H, D].

        A score is off by s = (d + 5) U sum|q k| scale: q times the scale, which is times log2 e, and d sums.  A weight
        p is then off by the part 2 s (its own score and the maximum's), 2 U |score - maximum| (the difference,
        rounded) and the errors of exp2 for itself and for the rescaling at each page and in a merge.  Sums over n
        positions add (n + 1) U each, above and below the fraction line.  A weight below the smallest float32, TINY,
        may be 0; lanes that are masked weigh nothing.  A sink is one more score, rounded once, times a rounded log2 e,
        and everything is rescaled once more, with three roundings, when it joins the others.
        """
        y, bound = np.zeros((2, len(self.q), self.heads, self.d))
        for t, (slot, p) in enumerate(zip(self.seen, self.positions, strict=True)):
            first = max(0, p + 1 - self.window) if self.window else 0
            last = p if self.sight == CAUSAL else self.lengths[slot] - 1
            last = min(last, p + self.window - 1) if self.window else last
            seen = (held[slot][first : last + 1] for held in (self.keys, self.values))
            k, v = (part.repeat(self.group, axis=1).transpose(1, 0, 2) for part in seen)
            q, n = self.queries(t)[:, None], last + 1 - first
            scores = (q * k).sum(2) * self.scale
            off = (self.d + 5) * U * (np.abs(q * k).sum(2) * self.scale).max(1, keepdims=True)
            if self.cap:  # its slope is at most 1; a quotient, tanh and a product
                scores = self.cap * np.tanh(scores / self.cap)
                off = off + 6e-7 * self.cap
            if self.slopes is not None:  # the distance times a slope is rounded three times, the sum once
                fall = self.slopes[:, None].astype(np.float64) * (np.arange(first, p + 1) - p)
                scores = scores + fall
                off = off + 4 * U * (np.abs(fall) + np.abs(scores)).max(1, keepdims=True)
            if self.added is not None:  # one rounding of the number times log2 e, and one of the sum
                span = self.added.shape[1] // 2
                more = self.added[:, np.clip(np.arange(first, last + 1) - p, -span, span) + span].astype(np.float64)
                scores = scores + more
                off = off + 3 * U * (np.abs(more) + np.abs(scores)).max(1, keepdims=True)
            if self.sinks is not None:
                scores = np.concatenate([scores, self.sinks[:, None].astype(np.float64)], axis=1)
                v = np.concatenate([v, np.zeros_like(v[:, :1])], axis=1)
                off = off + EXP + 2 * U * np.abs(self.sinks)[:, None] + 2 * U
            below = scores - scores.max(1, keepdims=True)
            weights = np.exp(below)
            weights /= weights.sum(1, keepdims=True)
            part = 2 * off + 2 * U * np.abs(below) + (n // PAGE + 4) * (EXP + 2 * U) + (2 * n + 4) * U
            y[t] = (weights[:, :, None] * v).sum(1)
            part = part + (weights * part).sum(1, keepdims=True)
            bound[t] = ((weights * part + TINY)[:, :, None] * np.abs(v)).sum(1)
        return y, bound

    def queries(self, t):
        """A token's queries [H, D] as its kind of cache has them: q8 takes the scaled rows as int8 groups of 32."""
        if self.cache.kind != "q8":
            return self.q[t].astype(np.float64)
        factor = np.float32(self.scale) * np.float32(np.log2(np.e))
        x = np.pad(self.q[t] * factor, ((0, 0), (0, -self.d % GROUP))).reshape(self.heads, -1, GROUP)
        top = np.abs(x).max(axis=2, keepdims=True)
        codes = np.rint(x * (np.float32(127) / top)).astype(np.float64)
        return (codes * (top * np.float32(1 / 127)) / factor).reshape(self.heads, -1)[:, : self.d]

    def check(self, threads=1):
        y = self.run(threads)
        expected, bound = self.expected()
        wrong = ~(np.abs(y - expected) <= bound)  # NaN is wrong
        assert not wrong.any(), f"off at (token, head, column) {np.argwhere(wrong)[:4].tolist()}"


def tiles(runs, most):
    """(first token, tokens) of tiles of at most `most` neighbours of one sequence."""
    found, at = [], 0
    for _, _, count in runs:
        found += [(at + i, min(most, count - i)) for i in range(0, count, most)]
        at += count
    return found


@each_isa
@each_kind
@pytest.mark.parametrize("cap,falling,window", [(3.0, False, 0), (0.0, True, 0), (2.0, True, 50)])
@pytest.mark.parametrize("kv_heads,group", [(2, 1), (3, 5), (1, 16)])
def test_bent_scores(isa, kind, cap, falling, window, kv_heads, group):
    """A soft cap, and slopes of ALiBi that differ from head to head: single tokens and tiles, over page borders."""
    heads = kv_heads * group
    slopes = (2.0 ** -np.linspace(1, 8, heads)).astype(np.float32) if falling else None
    Attention(isa, kind, heads, kv_heads, 24, [300, 140], [(0, 299, 1), (1, 100, 40)], scale=4.0, cap=cap,
              slopes=slopes, window=window).check(threads=2)  # fmt: skip


@each_isa
@each_kind
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_sinks(isa, kind, scale):
    """Far below all scores, among them and far above, another for each head: tiles, windows, long caches in parts."""
    sinks = np.array([-200.0, -1.0, 0.5, 2.0, 3.0, 200.0], np.float32)
    runs = [(0, 299, 1), (1, 100, 40), (2, 0, 3)]
    for window in (0, 50):
        Attention(isa, kind, 6, 2, 24, [300, 140, 3], runs, window=window, scale=scale, sinks=sinks).check(threads=2)
    long = PART_PAGES * PAGE * 3 - 5
    case = Attention(isa, kind, 6, 2, 24, [long, 40], [(0, long - 1, 1), (1, 39, 1)], scale=scale, sinks=sinks,
                     split=True)  # fmt: skip
    case.check()
    alone = case.run().copy()
    assert np.array_equal(case.run(threads=3), alone)
    assert (np.abs(alone[1, 5]) < 1e-30).all() or scale > 1, "a sink that outweighs all leaves nothing"


@each_isa
@each_kind
@pytest.mark.parametrize("group", [1, 3, 7, 8, 16])
@pytest.mark.parametrize("d", [8, 24, 64, 80, 128])
def test_head_sizes_and_shared_heads(isa, kind, group, d):
    """A decode step in the second page, then a prefill from position 0."""
    Attention(isa, kind, 2 * group, 2, d, [150, 20], [(0, 149, 1), (1, 0, 20)], seed=d).check(threads=1 + d % 3)


@each_isa
@each_kind
@pytest.mark.parametrize("first", [0, 1, 14, 15, 16, 17, 111, 112, 126, 127, 128, 129, 255, 256])
@pytest.mark.parametrize("count", [1, 2, 17])
def test_positions_around_blocks_and_pages(isa, kind, first, count):
    Attention(isa, kind, 3, 1, 24, [first + count], [(0, first, count)], seed=first).check()


@each_isa
@each_kind
@pytest.mark.parametrize("window", [1, 2, 15, 16, 17, 100, 127, 128, 129, 200, 1000])
def test_windows(isa, kind, window):
    """Single tokens, and tiles whose tokens see different first pages."""
    runs = [(0, 299, 1), (1, 120, 40), (0, 127, 1), (1, 250, 20)]
    Attention(isa, kind, 2, 1, 16, [300, 270], runs, window=window).check()


@each_isa
@each_kind
def test_pages_before_the_window_are_not_read(isa, kind):
    case = Attention(isa, kind, 2, 1, 16, [500], [(0, 400, 20)], window=100)
    case.cache.table[0, :2] = 0  # positions 0..255; the first in sight is 301
    case.check()


@each_isa
@each_kind
def test_later_positions_are_not_read(isa, kind):
    """Other numbers, and NaN, after a sequence's last position change nothing."""
    case = Attention(isa, kind, 2, 2, 24, [140], [(0, 133, 1)])
    y = case.run().copy()
    for fill in (1e4, np.nan):
        for held in (case.keys[0], case.values[0]):
            held[134:] = fill
        case.cache.write(0, case.keys[0], case.values[0])
        assert np.array_equal(case.run(), y)


@each_isa
@each_kind
def test_many_sequences_in_one_batch(isa, kind):
    runs = [(0, 5, 1), (1, 0, 7), (2, 139, 1), (0, 6, 1), (3, 100, 33), (1, 7, 3), (2, 140, 2)]
    case = Attention(isa, kind, 6, 2, 40, [7, 10, 142, 133], runs)
    case.check()
    together = case.run().copy()
    assert np.array_equal(case.run(3), together)
    for at, run in zip(np.cumsum([0] + [count for _, _, count in runs]), runs, strict=False):
        alone = Attention(isa, kind, 6, 2, 40, [7, 10, 142, 133], [run])
        alone.set_queries(case.q[at : at + run[2]])
        alone.check()


@each_isa
@each_kind
@pytest.mark.parametrize("tile", [1, 2, 3, 5, 16])
def test_any_tile_gives_the_same(isa, kind, tile):
    Attention(isa, kind, 4, 2, 32, [200], [(0, 110, 50)], tile=tile).check()


@each_isa
@each_kind
@pytest.mark.parametrize("group,d", [(1, 8), (3, 64), (8, 40), (9, 24)])
def test_long_caches_are_split(isa, kind, group, d):
    """Single tokens of sequences of very different lengths, with and without a window, on one thread and on three."""
    border = PART_PAGES * PAGE
    lengths = [border, border + 1, 3 * border - 5, 40]
    runs = [(slot, length - 1, 1) for slot, length in enumerate(lengths)]
    for window in (0, 100, border + 100):
        case = Attention(isa, kind, 2 * group, 2, d, lengths, runs, window=window, split=True)
        case.check()
        alone = case.run().copy()
        assert np.array_equal(case.run(threads=3), alone)
        assert not case.rig.partials[: 8 * SPLIT_ITEMS].any(), "the next layer counts from zero"


@each_isa
@each_kind
@pytest.mark.parametrize("scale", [30.0, 300.0])
def test_parts_with_very_different_scores(isa, kind, scale):
    """Merged as if they had been one: whichever part holds the largest score."""
    for seed in range(4):
        Attention(isa, kind, 2, 2, 16, [2000], [(0, 1999, 1)], scale=scale, seed=seed, split=True).check(2)


@each_isa
def test_many_items_are_not_split(isa):
    """Enough for all threads as they are; the memory for parts would not hold more.  A split shows in the roundings."""
    for count, split in ((SPLIT_ITEMS // 2 - 1, True), (SPLIT_ITEMS // 2, False)):
        runs = [(slot, 600, 1) for slot in range(count)]
        case, whole = (Attention(isa, "f16", 2, 2, 16, [601] * count, runs, split=s) for s in (True, False))
        case.check(2)
        assert np.array_equal(case.run(), whole.run()) != split


@each_isa
@pytest.mark.parametrize("runs", [[(0, 1000, 20)], [(0, 1019, 1), (1, 30, 2)]], ids=["prompt", "mixed"])
def test_prompts_are_not_split(isa, runs):
    """A part has room for the rows of one token; a token of a batch with a prompt is not split either."""
    case, whole = (Attention(isa, "f16", 2, 2, 16, [1020, 40], runs, split=split) for split in (True, False))
    case.check(2)
    assert np.array_equal(case.run(), whole.run())


@each_isa
@each_kind
@pytest.mark.parametrize("scale", [1e-3, 30.0, 300.0])
def test_flat_and_steep_scores(isa, kind, scale):
    """Scores near zero, and scores hundreds apart, where one position takes all."""
    Attention(isa, kind, 4, 2, 64, [300], [(0, 280, 20), (0, 0, 1)], scale=scale).check()


@each_isa
@each_kind
@pytest.mark.parametrize("sign", [-1, 1])
def test_scores_far_below_and_above_zero(isa, kind, sign):
    """Only differences count: scores of -300, and of 300, in one part and in several."""
    for first, count in ((280, 20), (0, 1), (1999, 1)):
        case = Attention(isa, kind, 2, 2, 24, [first + count], [(0, first, count)], split=True)
        case.set_queries(3 + 0.1 * case.q)
        case.cache.write(0, (20 * sign + 0.1 * case.keys[0]).astype(case.cache.dtype), case.values[0])
        case.keys[0], values = case.cache.read(0, first + count)
        case.values[0] = values[:, :, :24]
        case.check(2)


@each_isa
@each_kind
@pytest.mark.parametrize("operand", ["q", "k"])
def test_nan_is_not_hidden(isa, kind, operand):
    case = Attention(isa, kind, 2, 2, 24, [140], [(0, 139, 1)])
    if operand == "q":
        case.q_row[0, 30] = np.nan
    else:
        case.keys[0][17, 1, 4] = np.nan
        case.cache.write(0, case.keys[0], case.values[0])
    y = case.run()
    assert np.isfinite(y[0, 0]).all() and np.isnan(y[0, 1]).all()


@pytest.mark.slow
@pytest.mark.parametrize("isa", [isa for isa in EMULATED if isa.startswith("avx512@")])
@pytest.mark.parametrize("kind", ["f16", "q8"])
def test_registers_of_a_machine_that_this_is_not(isa, kind):
    """Chunks as wide as AVX512 has them: of one row, of some, and of more than fit, in one page and in several."""
    for group, d in ((1, 24), (3, 64), (4, 80), (9, 40)):
        runs = [(0, 149, 1), (1, 0, 20), (2, 127, 1)]
        Attention(isa, kind, 2 * group, 2, d, [150, 20, 128], runs, seed=d).check(2)
        lengths = [700, 30]
        runs = [(slot, length - 1, 1) for slot, length in enumerate(lengths)]
        Attention(isa, kind, 2 * group, 2, d, lengths, runs, window=650, split=True).check(2)


@each_isa
@each_kind
@pytest.mark.parametrize("heads,kv_heads,d", [(4, 2, 16), (9, 3, 64), (2, 2, 40), (5, 1, 24), (400, 1, 64)])
@pytest.mark.parametrize("joined", [False, True])
def test_small_steps_rotate_and_store_within_attention(isa, kind, heads, kv_heads, d, joined):
    """Bit by bit what rope, attention and quantize give: of one to four sequences, short, at page borders, split."""
    for positions in [(0,), (700,), (128, 5), (127, 640, 3, 256)]:
        found = [small_step(isa, kind, heads, kv_heads, d, positions, joined, *how) for how in
                 ((1, False), (1, True), (2, True), (5, True))]  # fmt: skip
        assert all(part.any() for part in found[0])
        for other in found[1:]:
            assert all(np.array_equal(a, b) for a, b in zip(found[0], other, strict=True))


def small_step(isa, kind, heads, kv_heads, d, positions, joined, threads, small):
    """One token of each sequence -> y, its records, the caches' bytes; small: in two rows that need no third.

    joined: q, k and v lie in one activation, heads are normed and have sinks, and neighbours turn as pairs.
    """
    t, rng, whole = len(positions), np.random.default_rng(7), heads // kv_heads * d % GROUP == 0
    rig = Rig(isa, t, slots=range(t), positions=positions, tiles=[(i, 1) for i in range(t)], small=small,
              scratch_bytes=attention_scratch(heads // kv_heads, d), partial_bytes=partial_bytes(heads // kv_heads, d)
              )  # fmt: skip
    memory, cache = rig.memory, Cache(rig.memory, kind, kv_heads, d, [p + 1 for p in positions], layer=64)
    for slot, p in enumerate(positions):
        k, v = (rng.standard_normal((p, kv_heads, d)).astype(np.float32) for _ in range(2))
        cache.write(slot, k, v)
    rig.pages = cache.table
    q, k, v = (memory.padded(rng.standard_normal((t, n * d)).astype(np.float32)) for n in (heads, kv_heads, kv_heads))
    angle = np.arange(max(positions) + 1)[:, None] * 100.0 ** (-np.arange(d // 4) / (d // 4))
    table = memory.array(np.concatenate([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32))
    y, records = memory.padded(np.zeros((t, heads * d), np.float32)), memory.bytes(record_bytes(t, heads * d))
    both = dict(q=q, ldq=q.shape[1], k=k, v=v, ldk=k.shape[1], heads=heads, kv_heads=kv_heads, head_dim=d,
                rope_dim=d // 4 * 2, table=table, layer=64, q_step=heads // kv_heads * d, k_step=d,
                **PLAIN_HEADS)  # fmt: skip
    if joined:
        group = heads // kv_heads
        whole_row = memory.padded(rng.standard_normal((t, kv_heads * (group + 2) * d)).astype(np.float32))
        step, ld = (group + 2) * d, whole_row.shape[1]
        norms = [memory.padded(rng.standard_normal((1, n * d)).astype(np.float32)) for n in (heads, kv_heads)]
        both |= dict(q=whole_row, ldq=ld, q_step=step, k=whole_row[:, group * d :], v=whole_row[:, (group + 1) * d :],
                     ldk=ld, k_step=step, paired=1, q_norm=norms[0], k_norm=norms[1], norm_step=d, norm_eps=1e-3,
                     norm_center=1)  # fmt: skip
    rig.row(f"rope_{kind}", barrier=LARGE, **both)
    sinks = memory.padded(rng.standard_normal((1, heads)).astype(np.float32)) if joined else None
    rig.row(f"attention_{kind}", **both, y=y, ldy=y.shape[1], scale=d**-0.5, window=0, cap=0.0, slopes=None,
            sinks=sinks, records=records if small and whole else None)  # fmt: skip
    if not (small and whole):
        rig.row("quantize", x=y, ldx=y.shape[1], records=records, groups=y.shape[1] // GROUP)
    rig.run(threads)
    return y, records, np.concatenate([page for pages in cache.pages for page in pages])
