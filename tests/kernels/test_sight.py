"""What tokens of whole sequences see, what a decoder sees of an encoder, and what distances add to scores."""

import numpy as np
import pytest
from kernels.harness import ISAS, PLAIN_HEADS, Cache, Rig, U
from kernels.test_attention import EXP, Attention, each_isa, each_kind, tiles

from lepton_edge.kernels.layout import ENDS, PART_PAGES, SEGMENTS, attention_scratch
from lepton_edge.kernels.ops import BY_SEGMENT, MEMORY, WANTED, WHOLE
from lepton_edge.program.blocks.attention import MAX_QUERY_ROWS


@each_isa
@each_kind
@pytest.mark.parametrize("window", [0, 1, 5, 64, 129])
@pytest.mark.parametrize("group", [1, 3])
def test_whole_sequences(isa, kind, window, group):
    """Tokens see what comes after them, up to their own sequence's end, or as far as the window reaches."""
    lengths = [150, 1, 17, 128]
    runs = [(slot, 0, length) for slot, length in enumerate(lengths)]
    Attention(isa, kind, 2 * group, 2, 24, lengths, runs, window=window, sight=WHOLE).check(threads=2)


@each_isa
@each_kind
def test_positions_after_the_end_are_not_read(isa, kind):
    case = Attention(isa, kind, 2, 2, 24, [140], [(0, 0, 134)], sight=WHOLE)
    case.lengths = [134]
    ends = case.rig._others[ENDS]
    ends[:] = 133
    case.check()


@each_isa
@each_kind
@pytest.mark.parametrize("split", [False, True])
def test_memories_of_encoders(isa, kind, split):
    """Each sequence attends to the memory that it was given, all of it, whatever its own length is; two share one."""
    lengths = [3, 9, 2, 200, 41, PART_PAGES * 128 * 2 + 5]
    for runs in ([(0, 2, 1), (1, 8, 1), (2, 1, 1)], [(0, 0, 3), (1, 4, 5), (2, 0, 2)]):
        case = Attention(isa, kind, 6, 2, 40, lengths, runs, sight=MEMORY, memory=(3, 4, 3), split=split)
        case.check(threads=2)
    Attention(isa, kind, 6, 2, 40, lengths, [(0, 2, 1), (1, 8, 1)], sight=MEMORY, memory=(5, 4), split=True).check(3)


@each_isa
@each_kind
@pytest.mark.parametrize("span", [1, 20, 300])
@pytest.mark.parametrize("sight", ["causal", "whole"])
def test_numbers_of_distances(isa, kind, span, sight):
    """Another number for each head and distance; what lies farther than `span` has that of `span`."""
    added = np.random.default_rng(span).normal(0, 2, (6, 2 * span + 1)).astype(np.float32)
    lengths = [200, 33]
    runs = [(0, 0, 200), (1, 0, 33)]
    Attention(isa, kind, 6, 2, 16, lengths, runs, sight=int(sight == "whole") * WHOLE, added=added).check(threads=2)
    if sight == "causal":
        Attention(isa, kind, 6, 2, 16, lengths, [(0, 199, 1), (1, 32, 1)], added=added, split=True).check(threads=2)


@each_isa
@pytest.mark.parametrize("lengths", [(150, 1, 40), (16,)])
def test_terms_of_distances(isa, lengths):
    """DeBERTa: what the query says of the distance to a key, and what the key says of it (arXiv:2006.03654)."""
    heads, d, rows, t = 3, 24, 14, sum(lengths)
    rng, span = np.random.default_rng(t), 160
    slots = [slot for slot, n in enumerate(lengths) for _ in range(n)]
    positions = [p for n in lengths for p in range(n)]
    runs = [(slot, 0, n) for slot, n in enumerate(lengths)]
    rig = Rig(isa, t, slots=slots, positions=positions, tiles=tiles(runs, 16),
              scratch_bytes=attention_scratch(MAX_QUERY_ROWS, d), lists={ENDS: [lengths[s] - 1 for s in slots]},
              )  # fmt: skip
    cache = Cache(rig.memory, "f32", heads, d, lengths)
    rig.pages = cache.table
    q, k, v = rng.standard_normal((3, t, heads, d)).astype(np.float32)
    starts = np.cumsum([0, *lengths])
    for slot, n in enumerate(lengths):
        cache.write(slot, *(x[starts[slot] : starts[slot] + n] for x in (k, v)))
    of_q, of_k = rng.standard_normal((2, t, heads, rows)).astype(np.float32)
    index = rng.integers(0, rows, 2 * span + 1).astype(np.float32)
    flat = rig.memory.padded(q.reshape(t, -1))
    y = rig.memory.padded(np.full((t, heads * d), 7, np.float32))
    terms = [rig.memory.padded(x.reshape(t, -1)) for x in (of_q, of_k)]
    rig.row("attention_f32", q=flat, ldq=flat.shape[1], k=None, v=None, ldk=0, heads=heads, kv_heads=heads, head_dim=d,
            rope_dim=0, table=None, layer=0, y=y, ldy=y.shape[1], scale=0.1, window=0, records=None, q_step=d, k_step=d,
            cap=0.0, slopes=None, sinks=None, sight=WHOLE, q_terms=terms[0], k_terms=terms[1], ldr=terms[0].shape[1],
            ldh=rows, index=rig.memory.array(index), span=span, **PLAIN_HEADS).run(2)  # fmt: skip
    for slot, n in enumerate(lengths):
        here = slice(starts[slot], starts[slot] + n)
        at = index[np.arange(n)[None] - np.arange(n)[:, None] + span].astype(int)  # [query, key]
        products = np.einsum("qhd,khd->hqk", q[here].astype(np.float64), k[here])
        more = np.stack([of_q[here][:, h][np.arange(n)[:, None], at] + of_k[here][:, h].astype(np.float64)[
            np.arange(n)[None], at] for h in range(heads)])  # fmt: skip
        scores = 0.1 * (products + more)
        weights = np.exp(scores - scores.max(2, keepdims=True))
        weights /= weights.sum(2, keepdims=True)
        expected = np.einsum("hqk,khd->qhd", weights, v[here]).reshape(n, -1)
        size = np.einsum("hqk,khd->qhd", weights, np.abs(v[here])).reshape(n, -1)
        part = 8 * ((d + 8) * U * np.abs(scores).max() * 3 + 2 * EXP + 2 * n * U)
        assert (np.abs(y[here, : heads * d] - expected) <= part * size).all()


@each_isa
def test_average(isa):
    """The mean over the sequence that begins with a wanted token, whose tokens need not be neighbours."""
    slots = [0, 1, 0, 0, 1, 2]
    for threads, wanted in ((1, (0, 1, 5)), (3, (1,)), (2, ())):
        rig = Rig(isa, 6, slots=slots, wanted=wanted)
        x = rig.memory.padded(np.random.default_rng(1).standard_normal((6, 70)).astype(np.float32))
        y = rig.memory.padded(np.full((6, 70), 7, np.float32))
        rig.row("average", count=WANTED, x=x, ldx=x.shape[1], y=y, ldy=y.shape[1], n=x.shape[1]).run(threads)
        for m, first in enumerate(wanted):
            rows = x[[t for t in range(6) if slots[t] == slots[first]]].astype(np.float64)
            assert (np.abs(y[m] - rows.mean(0)) <= 5 * U * np.abs(rows).mean(0)).all()
        assert (y[len(wanted) :, :70] == 7).all()


@pytest.mark.parametrize("isa", ISAS)
def test_rows_by_segment(isa):
    rig = Rig(isa, 4, ids=[9] * 4, positions=[5] * 4, lists={SEGMENTS: [1, 0, 2, 1]}, scratch_bytes=4096)
    table = np.random.default_rng(1).standard_normal((3, 40)).astype(np.float32)
    y = rig.memory.padded(np.ones((4, 40), np.float32))
    rig.row("embed_f32", w=rig.memory.array(table), y=y, ldy=y.shape[1], n=40, groups=0, block_bytes=0, scale=1.0,
            by=BY_SEGMENT, offset=0, accumulate=1).run(2)  # fmt: skip
    assert np.array_equal(y[:, :40], table[[1, 0, 2, 1]] + np.float32(1))
