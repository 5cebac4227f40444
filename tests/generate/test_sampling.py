"""The sampler against a slow twin that sorts everything in float64, and against the frequencies it promises."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lepton_edge.errors import ModelError
from lepton_edge.generate.params import SamplingParams
from lepton_edge.generate.sampling import Sampler, draw, filtered, limits, penalised, weigh
from lepton_edge.kernels.layout import TOP, TOP_CHUNK
from lepton_edge.program.summary import Summary, block_peaks, summarise

NO_PROMPT = np.empty(0, np.int32)
EPS = float(np.finfo(np.float32).eps)


def logits_of(seed: int, vocab: int, scale: float = 4.0, steps: float = 0.0) -> np.ndarray:
    """float32 [V]; with `steps` above 0 rounded to multiples of it: many ties."""
    logits = np.random.default_rng(seed).standard_normal(vocab) * scale
    return (np.round(logits / steps) * steps if steps else logits).astype(np.float32)


def summary_of(logits: np.ndarray, sampler: Sampler) -> Summary:
    return summarise(logits[None], [sampler.temperature])


def choose(sampler: Sampler, logits: np.ndarray) -> int:
    return sampler.choose(summary_of(logits, sampler), 0)[0]


def twin(logits: np.ndarray, params: SamplingParams, seen: list[int]) -> tuple[list[int], np.ndarray]:
    """Kept tokens, likeliest first, and their probabilities: the definition, step by step, in float64."""
    scores = [float(x) for x in logits]
    for token in set(seen):
        scores[token] *= 1 / params.repeat_penalty if scores[token] > 0 else params.repeat_penalty
    scores = np.array(scores, np.float32).astype(np.float64)
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    scaled = scores / params.temperature
    if params.top_k:
        order = order[: params.top_k]
    p = np.exp(scaled[order] - scaled[order[0]])
    p /= p.sum()
    before = np.concatenate([[0.0], np.cumsum(p)[:-1]])
    kept = [i for i, (share, below) in enumerate(zip(p, before, strict=True)) if below < params.top_p]
    kept = [i for i in kept if p[i] >= params.min_p * p[0]]
    return [order[i] for i in kept], p[kept] / p[kept].sum()


class Points:
    """Stands in for a random generator: gives these numbers, then fails."""

    def __init__(self, *points: float) -> None:
        self.points = list(points)

    def random(self) -> float:
        return self.points.pop(0)


class Some:
    """Logits of which single ones and chunks can be read, not all."""

    def __init__(self, logits: np.ndarray) -> None:
        self.logits = logits

    def __getitem__(self, index):
        part = self.logits[index]
        if isinstance(index, tuple):
            return part
        if isinstance(index, int):
            return Some(part)
        assert part.size <= TOP_CHUNK, "all logits are read"
        return part


PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.1, 0.7, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 3, 50, TOP - 1, TOP, TOP + 1, 699, 700, 10_000]),
    top_p=st.sampled_from([1.0, 0.999, 0.9, 0.5, 1e-9]),
    min_p=st.sampled_from([0.0, 0.003, 0.1, 1.0]),
    repeat_penalty=st.sampled_from([1.0, 1.02, 1.3, 5.0, 0.8]),
)


@given(PARAMS, st.integers(0, 20), st.sampled_from([1, 2, TOP, TOP + 1, 700, 3000]), st.sampled_from([0.01, 1.0, 4.0]),
       st.sampled_from([0.0, 0.5]), st.floats(0, 1, exclude_max=True))  # fmt: skip
@example(SamplingParams(temperature=1.0, top_k=0, top_p=0.9), 1, 3000, 4.0, 0.0, 0.7)
@example(SamplingParams(temperature=0.7, top_k=0, top_p=0.9, repeat_penalty=1.3), 1, 3000, 4.0, 0.5, 0.7)
@example(SamplingParams(temperature=1.0, top_k=0, repeat_penalty=1.3), 1, 3000, 4.0, 0.0, 0.1)
def test_a_point_falls_on_the_twins_token(params: SamplingParams, seed: int, vocab: int, scale: float, steps: float,
                                          point: float) -> None:  # fmt: skip
    """Tokens share the numbers from 0 to 1 in falling order; those drawn by chunks are left to the tests below."""
    logits, generator = logits_of(seed, vocab, scale, steps), np.random.default_rng(seed)
    prompt = np.concatenate([np.argsort(-logits)[: generator.integers(0, 200) : 2], generator.integers(0, vocab, 9)])
    sampler = Sampler(params, prompt.astype(np.int32), vocab)
    sampler._random = Points(point)
    # Without a limit of their number a second random number is asked for.
    sampler._draw = lambda *_: None
    token, logprob = sampler.choose(summary_of(logits, sampler), 0)
    # In float32: weights, whose exponents are right to 2**-24 of themselves where they matter, up to 17, and the sums.
    rounding = 20 * EPS
    allowed = []
    for way in (1 - rounding, 1.0, 1 + rounding):
        ids, shares = twin(logits, replace(params, top_p=min(1.0, params.top_p * way)), prompt.tolist())
        edges = np.concatenate([[0.0], shares.cumsum()])
        allowed += ids[max(0, edges.searchsorted(point - rounding) - 1) : edges.searchsorted(point + rounding) + 1]
    assert token in allowed
    exact = float(logits[token]) - np.logaddexp.reduce(logits.astype(np.float64))
    assert abs(logprob - exact) <= EPS * (2 + abs(exact))


@pytest.mark.parametrize("options", [
    dict(top_k=50, top_p=0.9), dict(top_k=400), dict(top_p=0.5), dict(top_p=0.99), dict(top_p=0.97, min_p=0.02),
    dict(top_k=300, repeat_penalty=1.2), dict(top_p=0.9, repeat_penalty=1.2), dict(top_p=0.9, repeat_penalty=0.8),
])  # fmt: skip
def test_a_shorter_list_gives_the_same_tokens(options: dict) -> None:
    """Whether the list of the likeliest is enough, or all logits have to be sorted."""
    vocab, params = 9000, SamplingParams(**{"top_k": 0} | options, temperature=0.9, seed=4)
    long, short = (Sampler(params, np.arange(0, vocab, 5, dtype=np.int32), vocab) for _ in range(2))
    for seed in range(12):
        whole = summary_of(logits_of(seed, vocab, 1 + seed % 4, 0.25 * (seed % 2)), long)
        few = replace(whole, ids=whole.ids[:, :3], values=whole.values[:, :3])
        assert long.choose(whole, 0) == short.choose(few, 0)


@pytest.mark.parametrize("options", [
    dict(),
    dict(repeat_penalty=1.1),
    dict(temperature=0.8),
    dict(temperature=0.8, top_k=TOP),
    dict(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05),
    dict(temperature=0.7, top_k=20, top_p=0.8, repeat_penalty=1.05),
    dict(temperature=0.5, top_k=0, top_p=0.8),
    dict(temperature=0.8, top_k=0, min_p=0.05),
    dict(temperature=0.8, top_k=1000, min_p=0.05),
    dict(temperature=0.8, top_k=0, top_p=0.9999, min_p=0.05),
    # By chunks:
    dict(temperature=1.0, top_k=0),
    dict(temperature=1.0, top_k=0, repeat_penalty=1.2),
    dict(temperature=2.0, top_k=0, min_p=0.01),
    dict(temperature=2.0, top_k=0, min_p=0.01, repeat_penalty=1.2),
])  # fmt: skip
def test_not_all_logits_are_read(options: dict) -> None:
    logits = logits_of(1, 20_000)
    sampler = Sampler(SamplingParams(seed=1, **options), np.argsort(-logits)[:40:2].astype(np.int32), 20_000)
    summary = summary_of(logits, sampler)
    for _ in range(20):
        sampler.choose(replace(summary, logits=Some(summary.logits)), 0)


FLAT, PEAKED = 0.7, 3.0


@pytest.mark.parametrize("scale,options", [
    (FLAT, dict(top_k=0)),
    (PEAKED, dict(top_k=0, temperature=0.8)),
    (FLAT, dict(top_k=0, repeat_penalty=1.5)),
    (PEAKED, dict(top_k=0, temperature=1.5, repeat_penalty=1.2)),
    (PEAKED, dict(top_k=0, repeat_penalty=0.8)),
    (FLAT, dict(top_k=0, min_p=0.1)),
    (PEAKED, dict(top_k=0, min_p=0.002, repeat_penalty=1.2)),
    (FLAT, dict(top_k=0, top_p=0.8)),
    (PEAKED, dict(top_k=0, top_p=0.95, repeat_penalty=1.2)),
    (PEAKED, dict(top_k=1000, temperature=1.5, repeat_penalty=1.2)),
    (PEAKED, dict(top_k=40, top_p=0.9, min_p=0.05, repeat_penalty=1.2)),
])  # fmt: skip
def test_tokens_come_as_often_as_they_should(scale: float, options: dict) -> None:
    """A chi-square test over groups of tokens: the likeliest ones each for itself, the others thrown together."""
    vocab, draws = 2 * TOP_CHUNK + 700, 6000
    logits = logits_of(3, vocab, scale)
    params = SamplingParams(**{"temperature": 1.0, "seed": 9} | options)
    prompt = np.concatenate([np.argsort(-logits)[1:200:3], np.arange(0, vocab, 7)]).astype(np.int32)
    sampler = Sampler(params, prompt, vocab)
    summary, seen, counts = summary_of(logits, sampler), sampler._seen.copy(), np.zeros(vocab)
    for _ in range(draws):
        sampler._seen[:] = seen
        counts[sampler.choose(summary, 0)[0]] += 1
    ids, shares = twin(logits, params, prompt.tolist())
    assert counts[ids].sum() == draws
    # Others: by chunk, by whether they are seen, by how likely they are.
    group = 1000 + np.array(ids) // TOP_CHUNK * 100 + seen[ids] * 10 + np.arange(len(ids)) * 4 // len(ids)
    group[:20] = np.arange(min(20, len(ids)))
    groups = np.unique(group)
    expected = np.array([draws * shares[group == g].sum() for g in groups])
    found = np.array([counts[ids][group == g].sum() for g in groups])
    large = expected >= 5
    assert found[~large].sum() <= expected[~large].sum() + 5 * math.sqrt(expected[~large].sum()) + 1
    # Its mean is the number of groups less one, its variance twice that.
    chi = float(((found - expected)[large] ** 2 / expected[large]).sum())
    assert chi <= large.sum() - 1 + 4 * math.sqrt(2 * large.sum()), (chi, large.sum())


def test_draws_by_chunks_follow_the_numbers() -> None:
    """One number picks the chunk, the next one the token in it: the halves of both, and their ends."""
    vocab = TOP_CHUNK + 4
    logits = np.full(vocab, -100.0, np.float32)
    logits[[5, 6, TOP_CHUNK, TOP_CHUNK + 3]] = np.log([1, 3, 1, 3])
    sampler = Sampler(SamplingParams(temperature=1.0, top_k=0, seed=0), NO_PROMPT, vocab)
    summary, last = summarise(np.stack([logits[::-1] * 2, logits])), 1 - 2**-53
    for chunk, token, expected in [
        (0.0, 0.0, 0), (0.0, 0.2, 5), (0.49, 0.3, 6), (0.49, last, 6), (0.51, 0.0, TOP_CHUNK),
        (0.51, 0.24, TOP_CHUNK), (last, 0.26, TOP_CHUNK + 3), (last, last, TOP_CHUNK + 3),
    ]:  # fmt: skip
        sampler._random = Points(chunk, token)
        assert sampler.choose(summary, 1)[0] == expected, (chunk, token)


def test_a_rejected_token_is_drawn_again() -> None:
    """Too unlikely for min-p; kept with the probability that the penalty leaves it."""
    logits = np.zeros(1000, np.float32)
    logits[500:] = -3.0
    logits[0] = math.log(2)
    edges = np.exp(logits.astype(np.float64)).cumsum()
    of = {token: float((edges[token] - 0.01) / edges[-1]) for token in (0, 7, 600)}

    def first(options: dict, *points: float) -> int:
        sampler = Sampler(SamplingParams(temperature=1.0, top_k=0, **options), np.array([0], np.int32), 1000)
        sampler._random = Points(*points)
        token = sampler.choose(summary_of(logits, sampler), 0)[0]
        assert not sampler._random.points
        return token

    assert first({}, 0.0, of[600]) == 600
    assert first({"min_p": 0.1}, 0.0, of[600], 0.0, of[7]) == 7
    assert first({"min_p": 0.1}, 0.0, of[7]) == 7
    # A penalty of 2 halves the logit ln 2, and so leaves 0.707 of the token's weight.
    assert first({"repeat_penalty": 2.0}, 0.0, of[0], 0.70) == 0
    assert first({"repeat_penalty": 2.0}, 0.0, of[0], 0.71, 0.0, of[7]) == 7


def test_a_penalty_that_leaves_almost_nothing() -> None:
    """All that is likely was seen: after some tries the token comes from all logits."""
    logits = np.zeros(1000, np.float32)
    logits[:3] = 30.0
    for options in ({}, {"top_p": 0.5}, {"min_p": 0.5}):
        params = SamplingParams(temperature=1.0, top_k=0, repeat_penalty=1e4, seed=1, **options)
        sampler = Sampler(params, np.arange(3, dtype=np.int32), 1000)
        assert {choose(sampler, logits) for _ in range(20)} <= set(range(3, 1000))


def test_greedy_takes_the_first_of_the_largest() -> None:
    logits = np.array([0, 3, -1, 3, 2], np.float32)
    assert choose(Sampler(SamplingParams(), NO_PROMPT, 5), logits) == 1
    assert logits.tolist() == [0, 3, -1, 3, 2]


def test_the_penalty_applies_to_prompt_and_text() -> None:
    logits = np.array([4.0, 3.9, -1.0, 3.5], np.float32)
    sampler = Sampler(SamplingParams(repeat_penalty=2.0), np.array([0], np.int32), 4)
    assert [choose(sampler, logits) for _ in range(4)] == [1, 3, 0, 0]
    tie = np.array([0.0, 3.0, 1.0, 6.0], np.float32)
    assert choose(Sampler(SamplingParams(repeat_penalty=2.0), np.array([3], np.int32), 4), tie) == 1
    np.testing.assert_array_equal(penalised(logits, 2.0), np.float32([2.0, 1.95, -2.0, 1.75]))
    for extreme in (1e308, 1e-308):
        assert np.isfinite(penalised(logits, extreme)).all()


@pytest.mark.parametrize("penalty", [0.5, 2.0])
def test_the_likeliest_after_the_penalty_is_no_candidate_before(penalty: float) -> None:
    """Candidates fall behind an unseen token; a seen token that is no candidate overtakes them."""
    vocab = TOP + 9
    logits = np.full(vocab, 3.0, np.float32)
    logits[:TOP], logits[0] = 4.0, 5.0
    prompt = np.arange(TOP) if penalty > 1 else np.array([TOP + 5])
    sampler = Sampler(SamplingParams(repeat_penalty=penalty), prompt.astype(np.int32), vocab)
    assert choose(sampler, logits) == (TOP if penalty > 1 else TOP + 5)


def test_a_penalised_candidate_equals_one_that_is_none() -> None:
    """All candidates are seen; they fall to 3.0, which the unseen token 1 has as well."""
    logits = np.full(TOP + 20, 3.0, np.float32)
    logits[10 : TOP + 9] = 6.0
    prompt = np.array([0, *range(10, TOP + 9)], np.int32)
    assert choose(Sampler(SamplingParams(repeat_penalty=2.0), prompt, TOP + 20), logits) == 1


@pytest.mark.parametrize("penalty", [1e-3, 0.8, 0.99, 1.01, 1.3])
def test_the_total_after_the_penalty(penalty: float) -> None:
    """Relative to the likeliest score after it."""
    logits = logits_of(1, 5000)
    params = SamplingParams(temperature=0.7, top_k=0, top_p=0.9, repeat_penalty=penalty)
    sampler = Sampler(params, np.argsort(-logits)[:1000:3].astype(np.int32), 5000)
    heated, peak = float(summary_of(logits, sampler).heated[0]), float(logits.max())
    scores = logits.copy()
    scores[sampler._seen] = penalised(logits[sampler._seen], penalty)
    exact = np.exp((scores.astype(np.float64) - scores.max()) / 0.7).sum()
    found = sampler._total(logits, heated, peak, np.sort(scores)[::-1])
    # In float32: the sum before, each weight and what goes into its exponent, up to 17; then what is left of the sum.
    assert abs(found - exact) <= 20 * EPS * max(exact, heated * math.exp((peak - float(scores.max())) / 0.7))
    assert abs(found - heated) > 0.01 * exact
    assert math.isnan(sampler._total(logits, 101 * heated, peak, scores[:0]))


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("vocab", [1, 17, 50_000])
def test_logprob_is_of_the_model_alone(temperature: float, vocab: int) -> None:
    """Whatever the penalty, temperature and filters, it is the log-softmax of the logits as they came."""
    logits = logits_of(5, vocab)
    params = SamplingParams(temperature=temperature, seed=1, top_k=40, top_p=0.9, repeat_penalty=1.5)
    sampler = Sampler(params, np.array([0], np.int32), vocab)
    exact = logits.astype(np.float64)
    exact -= exact.max() + math.log(np.exp(exact - exact.max()).sum())
    for _ in range(20):
        token, logprob = sampler.choose(summary_of(logits, sampler), 0)
        assert abs(logprob - exact[token]) <= EPS  # the sum is a float32


def test_the_same_seed_gives_the_same_tokens() -> None:
    def tokens(seed: int | None, **options: float) -> list[int]:
        sampler = Sampler(SamplingParams(temperature=2.0, top_k=0, seed=seed, **options), NO_PROMPT, 1000)
        return [choose(sampler, logits_of(step, 1000, 1.0)) for step in range(20)]

    assert tokens(5) == tokens(5) and tokens(5, top_p=0.9) == tokens(5, top_p=0.9) != tokens(5)
    assert len({tuple(tokens(seed)) for seed in (5, 6, 1 << 80, None, None)}) == 5


@pytest.mark.parametrize("temperature", [5e-324, 1e-30, 1e30, 1e308])
@pytest.mark.parametrize("vocab", [5, 3000])
@pytest.mark.parametrize("options", [
    {"top_k": 3}, {"top_k": 0}, {"top_k": 0, "top_p": 0.5}, {"top_k": 0, "min_p": 0.5}, {"top_k": 0, "top_p": 0.99},
    {"top_k": 0, "repeat_penalty": 1e300}, {"top_k": 0, "repeat_penalty": 1e-300, "top_p": 0.5}
])  # fmt: skip
def test_extreme_temperatures(temperature: float, vocab: int, options: dict) -> None:
    logits = np.full(vocab, -np.inf, np.float32)
    logits[[0, 1, 3, vocab - 1]] = 1.0, 2.0, 1.5, -3e38
    sampler = Sampler(SamplingParams(temperature=temperature, seed=0, **options), np.array([4], np.int32), vocab)
    summary, seen = summary_of(logits, sampler), sampler._seen.copy()
    drawn = set()
    with np.errstate(all="raise", under="ignore"):
        for _ in range(60):
            sampler._seen[:] = seen
            drawn.add(sampler.choose(summary, 0)[0])
    assert drawn == {1} if temperature < 1 else len(drawn) > 1 and drawn <= {0, 1, 3, vocab - 1, 4}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(temperature=1.0)])
def test_logits_that_are_no_numbers(bad: float, params: SamplingParams) -> None:
    logits = np.stack([logits_of(1, 1000)] * 2)
    logits[1, 70] = bad
    sampler, summary = Sampler(params, NO_PROMPT, 1000), summarise(logits)
    sampler.choose(summary, 0)
    with pytest.raises(ModelError, match=r"logits hold (nan|inf); expected finite"):
        sampler.choose(summary, 1)
    with pytest.raises(ModelError, match="-inf"):
        sampler.choose(summarise(np.full((1, 1000), -np.inf, np.float32)), 0)


def test_what_the_filters_leave() -> None:
    """Weights 2, 1, 1 of a total of 4 or more, of a vocabulary of 10."""
    scores = np.log(np.array([2, 1, 1], np.float32))

    def kept(total: float = 4.0, vocab: int = 10, **options: float) -> int | None:
        edges = filtered(scores, SamplingParams(**{"temperature": 1.0, "top_k": 0} | options), vocab, total / 2, 1.0)
        return None if edges is None else edges.size

    assert [kept(top_p=share) for share in (1e-9, 0.49, 0.51, 0.74, 0.76, 0.99)] == [1, 1, 2, 2, 3, 3]
    assert kept(total=5, top_p=0.79) == 3 and kept(total=5, top_p=0.81) is None and kept(math.nan, top_p=0.1) is None
    assert kept() is None and kept(vocab=3) == 3 and kept(math.nan, vocab=3, top_p=0.76) == 3
    assert kept(top_k=2) == 2 and kept(top_k=3) == 3 and kept(top_k=4) is None and kept(top_k=9, vocab=3) == 3
    assert kept(top_k=2, top_p=0.6) == 1 and kept(top_k=2, top_p=0.7) == 2 and kept(top_k=4, top_p=0.1) is None
    assert kept(min_p=0.51) == 1 and kept(min_p=1.0) == 1 and kept(min_p=0.49) is None
    assert kept(top_k=4, min_p=0.51) == 1 and kept(top_p=0.51, min_p=0.1) == 2 and kept(top_p=0.76, min_p=0.51) == 1
    np.testing.assert_allclose(filtered(scores, SamplingParams(temperature=1.0), 3, 2.0, 2.0), [1, 1.25, 1.5], rtol=EPS)


def test_small_parts() -> None:
    edges = np.array([0.5, 0.8, 1.0])
    assert [draw(edges, point) for point in (0.0, 0.49, 0.5, 0.79, 0.81, 1 - 2**-53)] == [0, 0, 1, 1, 2, 2]
    assert draw(np.array([3.0, 3.0, 3.0]), 1 - 2**-53) == 0
    np.testing.assert_allclose(weigh(np.float32([1, 0, -np.inf, -3e38]), 1.0, 0.5), [1, math.exp(-0.5), 0, 0], rtol=EPS)


def test_limits_are_reached_by_enough_logits() -> None:
    logits = logits_of(2, 50_000)
    blocks = block_peaks(logits[None].astype(np.float64), np.ones(1))[0, :1563].astype(np.float32)
    for top_k in (200, 1000):
        first, last = limits(blocks, top_k)
        assert top_k <= np.count_nonzero(logits >= first) < 5 * top_k and last == -math.inf
    assert limits(blocks, 5000) == [-math.inf]
    quarter, most, last = limits(blocks, 0)
    assert quarter > most > last == -math.inf and np.count_nonzero(logits >= most) < 10_000
