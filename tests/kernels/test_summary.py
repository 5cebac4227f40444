"""The summary of logits: the likeliest tokens exactly, and the sums of exponentials."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from kernels.harness import ISAS, Rig, U

from lepton_edge.kernels.layout import TOP, TOP_BLOCK, TOP_CHUNK, summary_sizes
from lepton_edge.kernels.ops import WANTED
from lepton_edge.program.summary import Summary, block_peaks, read_summary, summarise

each_isa = pytest.mark.parametrize("isa", ISAS)
VOCABS = (1, 15, 16, 17, 83, TOP - 1, TOP, TOP + 1, 2047, 2048, 2049, 5000, 50_257)


def normal(seed: int, *shape: int, scale: float = 3.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def summary(isa: str, logits: np.ndarray, threads: int = 1, heats: tuple[float, ...] = ()) -> Summary:
    """What both rows make of logits float32 [M, V]; the block maxima are checked on the way."""
    count, vocab = logits.shape
    rig = Rig(isa, count, wanted=range(count), heats=heats)
    x = rig.memory.padded(logits)
    chunks, size = summary_sizes(vocab)
    y = rig.memory.padded(np.zeros((count, TOP + 2 + chunks), np.float32))
    ids = rig.memory.array(np.ones((count, TOP), np.int32))
    peaks = rig.memory.padded(np.full((count, size), 7, np.float32))
    common = dict(count=WANTED, x=x, ldx=x.shape[1], n=vocab)
    rig.row("block_peaks", y=peaks, ldy=peaks.shape[1], **common)
    rig.row("top", peaks=peaks, ldp=peaks.shape[1], y=y, ldy=y.shape[1], ids=ids, **common)
    rig.run(threads)
    blocks = block_peaks(logits.astype(np.float64), np.ones(count))[:, : size - 2 * chunks]
    assert np.array_equal(peaks[:, : size - 2 * chunks], blocks) and not y[:, TOP + 2 + chunks :].any()
    kept = min(TOP, vocab)
    assert (y[:, kept:TOP] == -np.inf).all() and not ids[:, kept:].any()
    return read_summary(logits, peaks, y, ids)


def bound(logits: np.ndarray, heat: float, peak: float | None = None) -> float:
    """How far a sum may be off; `peak`: the largest of all logits, if these are some of them.

    Each term e^-a: exp2 twice (the token in its chunk, the chunk among all), 2e-7 each; each argument is rounded when
    it is subtracted, in log2(e), when that is multiplied with the heat and when it is multiplied with both, 4 a U in
    all.  A lane adds 128 terms, then 4 times, then chunk by chunk: at most 75 in these tests; a product for each chunk.
    exp2 is 0 below e^-87.
    """
    finite = logits[logits > -np.inf].astype(np.float64)
    a = ((finite.max(initial=-np.inf) if peak is None else float(peak)) - finite) * heat
    return float((np.exp(-a) * (4e-7 + (4 * a + 128 + 4 + 75 + 2) * U)).sum() + logits.size * 2 * np.exp(-87))


def check(isa: str, logits: np.ndarray, threads: int = 1, heats: tuple[float, ...] = ()) -> Summary:
    """The kernels' summary, held against the definition."""
    found = summary(isa, logits, threads, heats)
    heat = np.array(heats or [1.0] * len(logits), np.float32)
    expected = summarise(logits, (1 / heat.astype(np.float64)).tolist())
    assert np.array_equal(found.values, expected.values) and np.array_equal(found.ids, expected.ids)
    for m, row in enumerate(logits):
        exact = np.exp((row.astype(np.float64) - row.max()) * np.array([[1.0], [heat[m]]])).sum(axis=1)
        for sum_, which, h in ((found.sums[m], 0, 1.0), (found.heated[m], 1, float(heat[m]))):
            assert abs(float(sum_) - exact[which]) <= bound(row, h), (m, which)
        for c, share in enumerate(found.shares[m].tolist()):
            part = row[c * TOP_CHUNK : (c + 1) * TOP_CHUNK]
            exact_share = np.exp((part.astype(np.float64) - row.max()) * heat[m]).sum()
            assert abs(share - exact_share) <= bound(part, float(heat[m]), row.max()), (m, c)
    return found


@each_isa
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_summary(isa, threads):
    """Ragged vocabularies, several tokens, temperatures; any number of threads gives the same bits."""
    for vocab in VOCABS:
        logits, heats = normal(vocab, 3, vocab), (1.0, 0.25, 3.0)
        found = check(isa, logits, threads, heats)
        alone = summary(isa, logits, 1, heats)
        assert np.array_equal(found.sums, alone.sums) and np.array_equal(found.heated, alone.heated)
        assert found.heated[0] == found.sums[0]


@each_isa
def test_large_vocabulary(isa):
    check(isa, normal(1, 1, 151_936), 2, (0.7,))


@each_isa
@pytest.mark.parametrize("vocab", [83, 4000])
def test_ties_go_by_id(isa, vocab):
    """All equal; two values only; the largest one everywhere but in one place; -0.0 beside 0.0."""
    assert check(isa, np.full((1, vocab), -2.5, np.float32)).ids[0].tolist() == list(range(min(vocab, TOP)))
    check(isa, np.random.default_rng(1).integers(0, 2, (2, vocab)).astype(np.float32))
    almost = np.zeros((1, vocab), np.float32)
    almost[0, vocab // 2] = 1
    assert check(isa, almost).ids[0, :2].tolist() == [vocab // 2, 0]
    check(isa, np.where(np.arange(vocab) % 3 == 0, -0.0, 0.0).astype(np.float32)[None])


@each_isa
def test_order_does_not_matter(isa):
    """Rising, falling, all of the likeliest in one block, one in each block."""
    rising = np.linspace(-9, 9, 10_000, dtype=np.float32)
    for row in (rising, rising[::-1], np.roll(rising, 5000), rising.reshape(TOP_BLOCK // 2, -1).T.reshape(-1)):
        check(isa, np.ascontiguousarray(row)[None])


@each_isa
def test_limits(isa):
    """-inf among the logits, in whole blocks and chunks; the largest floats; and none but -inf."""
    logits = normal(1, 1, 5000)
    logits[0, :2048] = -np.inf
    logits[0, 3000::3] = -np.inf
    check(isa, logits)
    few = np.full((1, 5000), -np.inf, np.float32)
    few[0, [4000, 17]] = 1, 2
    assert check(isa, few).ids[0, :4].tolist() == [17, 4000, 0, 1]
    check(isa, np.array([[3e38, -3e38, 1, 3.4e38, -3.4e38]], np.float32), heats=(1e30,))
    check(isa, np.array([[3e38, -3e38, 1, 3.4e38, -3.4e38]], np.float32), heats=(1e-30,))
    nothing = summary(isa, np.full((1, 3000), -np.inf, np.float32))
    assert (nothing.values == -np.inf).all() and nothing.ids[0].tolist() == list(range(TOP))


@each_isa
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 15, 2047, 2048, 4999])
def test_what_is_not_finite_shows(isa, bad, place):
    """Both sums are NaN, of that token only; NaN is not among the likeliest, infinity is the first."""
    logits = normal(1, 3, 5000)
    logits[1, place] = bad
    found = summary(isa, logits, heats=(1.0, 0.5, 1.0))
    assert np.isnan(found.sums).tolist() == np.isnan(found.heated).tolist() == [False, True, False]
    expected = summarise(logits)
    assert np.array_equal(found.values, expected.values) and np.array_equal(found.ids, expected.ids)
    assert (found.values[1, 0] == np.inf) == (bad == np.inf)


@each_isa
def test_none_but_nan(isa):
    found = summary(isa, np.full((1, 3000), np.nan, np.float32))
    assert np.isnan(found.sums).all() and (found.values == -np.inf).all() and not found.ids.any()


@given(arrays(np.float32, st.integers(1, 400), elements=st.floats(-50, 50, width=32) | st.sampled_from([0.0, 1.0])))
def test_any_logits(logits):
    check(ISAS[0], logits[None], heats=(1.5,))
