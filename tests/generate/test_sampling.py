"""The sampler against a slow twin that sorts everything in float64, and against the frequencies it promises."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_edge.errors import ModelError
from lepton_edge.generate.params import SamplingParams
from lepton_edge.generate.sampling import Sampler, candidates, draw, falling, likeliest, nucleus, penalised

NO_PROMPT = np.empty(0, np.int32)
EPS = float(np.finfo(np.float32).eps)


def logits_of(seed: int, vocab: int, scale: float = 4.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(vocab) * scale).astype(np.float32)


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


PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.1, 0.7, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 3, 50, 699, 700, 10_000]),
    top_p=st.sampled_from([1.0, 0.999, 0.9, 0.5, 1e-9]),
    min_p=st.sampled_from([0.0, 0.003, 0.1, 1.0]),
    repeat_penalty=st.sampled_from([1.0, 1.3, 0.8]),
)


@given(PARAMS, st.integers(0, 20), st.sampled_from([1, 2, 700]), st.sampled_from([0.01, 4.0]))
def test_candidates_equal_the_twin(params: SamplingParams, seed: int, vocab: int, scale: float) -> None:
    logits = logits_of(seed, vocab, scale)
    seen = [0, vocab // 2, vocab - 1]
    scores = logits
    if params.repeat_penalty != 1.0:
        scores = penalised(logits, np.unique(seen), params.repeat_penalty)
    ids, weights = candidates(scores, params, np.empty_like(logits))
    expected_ids, expected = twin(logits, params, seen)
    order = np.argsort(-scores[ids], kind="stable")
    got, shares = ids[order].tolist(), (weights / weights.sum())[order]
    # Sums in float32 against float64: the cut of top_p may move by a token of almost no consequence.
    common = min(len(got), len(expected_ids))
    assert got[:common] == expected_ids[:common]
    rounding = vocab * EPS
    assert abs(len(got) - len(expected_ids)) <= (1 if params.top_p < 1.0 else 0)
    left = np.concatenate([expected[common:], shares[common:], [0.0]])
    assert left.max() < 2e-2
    np.testing.assert_allclose(shares[:common], expected[:common], rtol=rounding + 2 * left.max() + 2e-5)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=1.0, top_k=0),
        SamplingParams(temperature=0.8, top_k=5),
        SamplingParams(temperature=1.5, top_k=0, top_p=0.8),
        SamplingParams(temperature=1.0, top_k=0, min_p=0.2),
        SamplingParams(temperature=1.0, top_k=8, top_p=0.9, min_p=0.05, repeat_penalty=1.2),
    ],
)
def test_tokens_come_as_often_as_they_should(params: SamplingParams) -> None:
    logits = logits_of(3, 40, 1.5)
    prompt = np.array([1, 2, 3], np.int32)
    draws = 4000
    counts = np.zeros(40)
    sampler = Sampler(SamplingParams(**{**vars(params), "seed": 9}), prompt, 40)
    for _ in range(draws):
        sampler._seen[:] = False
        sampler._seen[prompt] = True
        counts[sampler.pick(logits)[0]] += 1
    ids, expected = twin(logits, params, prompt.tolist())
    assert counts[ids].sum() == draws
    # Five standard deviations of a binomial count, and one for the discreteness.
    assert (abs(counts[ids] - draws * expected) <= 5 * np.sqrt(draws * expected * (1 - expected)) + 1).all()


def test_greedy_takes_the_first_of_the_largest() -> None:
    logits = np.array([0, 3, -1, 3, 2], np.float32)
    assert Sampler(SamplingParams(), NO_PROMPT, 5).pick(logits)[0] == 1
    assert logits.tolist() == [0, 3, -1, 3, 2]


def test_the_penalty_applies_to_prompt_and_text() -> None:
    logits = np.array([4.0, 3.9, -1.0, 3.5], np.float32)
    sampler = Sampler(SamplingParams(repeat_penalty=2.0), np.array([0], np.int32), 4)
    assert [sampler.pick(logits)[0] for _ in range(4)] == [1, 3, 0, 0]
    np.testing.assert_array_equal(penalised(logits, np.array([0, 2]), 2.0), np.array([2.0, 3.9, -2.0, 3.5], np.float32))
    for extreme in (1e308, 1e-308):
        assert np.isfinite(penalised(logits, np.arange(4), extreme)).all()


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("vocab", [1, 17, 50_000])
def test_logprob_is_of_the_model_alone(temperature: float, vocab: int) -> None:
    """Whatever the penalty, temperature and filters, it is the log-softmax of the logits as they came."""
    logits = logits_of(5, vocab)
    params = SamplingParams(temperature=temperature, seed=1, top_k=40, top_p=0.9, repeat_penalty=1.5)
    sampler = Sampler(params, np.array([0], np.int32), vocab)
    exact = logits.astype(np.float64)
    exact -= exact.max() + math.log(np.exp(exact - exact.max()).sum())
    # exp in float32 of a difference up to the range of the logits: the range plus two roundings, then a pairwise sum.
    tolerance = EPS * (float(np.ptp(logits)) + 2 + math.log2(vocab + 1) + 2 * float(abs(logits).max()))
    for _ in range(20):
        token, logprob = sampler.pick(logits)
        assert abs(logprob - exact[token]) <= tolerance


def test_the_same_seed_gives_the_same_tokens() -> None:
    def tokens(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingParams(temperature=2.0, top_k=0, seed=seed), NO_PROMPT, 1000)
        return [sampler.pick(logits_of(step, 1000, 1.0))[0] for step in range(20)]

    assert tokens(5) == tokens(5)
    assert len({tuple(tokens(seed)) for seed in (5, 6, 1 << 80, None, None)}) == 5


@pytest.mark.parametrize("temperature", [5e-324, 1e-30, 1e30, 1e308])
@pytest.mark.parametrize(
    "options", [{"top_k": 3}, {"top_k": 0}, {"top_k": 0, "top_p": 0.5}, {"top_k": 0, "min_p": 0.5}]
)
def test_extreme_temperatures(temperature: float, options: dict) -> None:
    logits = np.array([1.0, 2.0, -np.inf, 1.5, -3e38], np.float32)
    with np.errstate(all="raise", under="ignore"):
        sampler = Sampler(SamplingParams(temperature=temperature, seed=0, **options), NO_PROMPT, 5)
        drawn = {sampler.pick(logits)[0] for _ in range(60)}
    assert drawn == {1} if temperature < 1 else drawn - {1}
    assert 2 not in drawn


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(temperature=1.0)])
def test_logits_that_are_no_numbers(bad: float, params: SamplingParams) -> None:
    logits = logits_of(1, 100)
    logits[70] = bad
    with pytest.raises(ModelError, match=r"logits hold (nan|inf); expected finite"):
        Sampler(params, NO_PROMPT, 100).pick(logits)
    with pytest.raises(ModelError, match="-inf"):
        Sampler(params, NO_PROMPT, 100).pick(np.full(100, -np.inf, np.float32))


def test_small_parts() -> None:
    scores = np.array([1, 5, 5, 0, 5, 9], np.float32)
    assert likeliest(scores, 1).tolist() == [5]
    assert likeliest(scores, 3).tolist() == [5, 1, 2]
    assert likeliest(scores, 5).tolist() == [5, 1, 2, 4, 0]
    falling = np.array([0.5, 0.3, 0.2])
    assert [nucleus(falling, share, 1.0) for share in (1e-9, 0.5, 0.51, 0.8, 0.95, 1.0)] == [1, 1, 2, 2, 3, 3]
    assert nucleus(falling, 1.0, 1.5) == 3
    ids = np.array([7, 8, 9])
    assert [draw(ids, falling, point) for point in (0.0, 0.49, 0.5, 0.79, 0.81, 1 - 2**-53)] == [7, 7, 8, 8, 9, 9]
    assert draw(ids, np.array([1.0, 0.0, 0.0]), 1 - 2**-53) == 7


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=50))
def test_falling_is_a_stable_sort(values: list[float]) -> None:
    scores = np.array([*values, 0.0, -0.0, *values[:5]], np.float32)
    assert falling(scores).tolist() == sorted(range(scores.size), key=lambda i: -scores[i])


def test_a_flat_distribution_is_sorted_whole_for_top_p() -> None:
    ids, weights = candidates(
        np.zeros(5000, np.float32), SamplingParams(temperature=1.0, top_k=0, top_p=0.9), np.empty(5000, np.float32)
    )
    assert ids.tolist() == list(range(4500)) and (weights == 1.0).all()
