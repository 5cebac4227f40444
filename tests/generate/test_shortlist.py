"""Tokens chosen from a summary of the logits are those chosen from all of them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lepton_edge.errors import ModelError
from lepton_edge.generate.params import SamplingParams
from lepton_edge.generate.sampling import Sampler, filtered
from lepton_edge.kernels.layout import TOP
from lepton_edge.program.summary import Summary, summarise

NO_PROMPT = np.empty(0, np.int32)

PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.1, 0.7, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 3, 50, TOP - 1, TOP, TOP + 1, 600, 10_000]),
    top_p=st.sampled_from([1.0, 0.999, 0.9, 0.5, 1e-9]),
    min_p=st.sampled_from([0.0, 0.003, 0.1, 1.0]),
    repeat_penalty=st.sampled_from([1.0, 1.02, 1.3, 5.0, 0.8]),
    seed=st.integers(0, 3),
)


def logits_of(seed: int, vocab: int, scale: float, steps: float) -> np.ndarray:
    """float32 [3, V]; with `steps` above 0 rounded to multiples of it: many ties."""
    logits = np.random.default_rng(seed).standard_normal((3, vocab)) * scale
    return (np.round(logits / steps) * steps if steps else logits).astype(np.float32)


def noisy(summary: Summary, seed: int) -> Summary:
    """The same with sums as another execution may add them up, 1e-5 away."""
    a, b = 1 + np.random.default_rng(seed).uniform(-1e-5, 1e-5, (2, len(summary.sums)))
    return replace(summary, sums=(summary.sums * a).astype(np.float32), heated=(summary.heated * b).astype(np.float32))


@given(PARAMS, st.integers(0, 50), st.sampled_from([1, 5, TOP, TOP + 1, 700, 3000]), st.sampled_from([0.02, 1.0, 5.0]),
       st.sampled_from([0.0, 0.5]))  # fmt: skip
@example(SamplingParams(temperature=1.0, top_k=0, top_p=0.9, seed=0), 1, 3000, 5.0, 0.0)
@example(SamplingParams(temperature=0.7, top_k=50, repeat_penalty=1.3, seed=0), 1, 3000, 5.0, 0.5)
def test_both_ways_agree(params: SamplingParams, seed: int, vocab: int, scale: float, steps: float) -> None:
    logits, generator = logits_of(seed, vocab, scale, steps), np.random.default_rng(seed)
    # Seen: some of the likeliest tokens and some others.
    prompt = np.concatenate([np.argsort(-logits[0])[: generator.integers(0, 200) : 2], generator.integers(0, vocab, 9)])
    whole, short = (Sampler(params, prompt.astype(np.int32), vocab) for _ in range(2))
    summary = noisy(summarise(logits, [short.temperature] * 3), seed)
    for _ in range(4):
        for index in range(3):
            expected, logprob = whole.pick(logits[index])
            token, found = short.choose(summary, index)
            assert token == expected
            assert abs(found - logprob) <= 2e-5 + 1e-6 * abs(logprob), "log of sums 1e-5 apart, and float32 rounding"


@pytest.mark.parametrize("scale,options", [
    (4.0, dict()),
    (4.0, dict(repeat_penalty=1.1)),
    (4.0, dict(temperature=0.8)),
    (4.0, dict(temperature=0.8, top_k=TOP)),
    (4.0, dict(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05)),
    (4.0, dict(temperature=0.7, top_k=20, top_p=0.8, repeat_penalty=1.05)),
    (4.0, dict(temperature=0.5, top_k=0, top_p=0.8)),
    (4.0, dict(temperature=0.8, top_k=0, min_p=0.05)),
    (4.0, dict(temperature=0.8, top_k=1000, min_p=0.05)),
    (4.0, dict(temperature=0.8, top_k=0, top_p=0.9999, min_p=0.05)),
])  # fmt: skip
def test_the_summary_is_enough(scale: float, options: dict) -> None:
    """The logits are not there at all."""
    logits = logits_of(1, 20_000, scale, 0)
    params = SamplingParams(seed=1, **options)
    whole, short = (Sampler(params, np.argsort(-logits[0])[:40:2].astype(np.int32), 20_000) for _ in range(2))
    summary = replace(summarise(logits, [short.temperature] * 3), logits=None)
    for index in (0, 1, 2, 0, 1, 2):
        assert short.choose(summary, index)[0] == whole.pick(logits[index])[0]


@pytest.mark.parametrize("options", [
    dict(temperature=1.0, top_k=0),
    dict(temperature=1.0, top_k=TOP + 1),
    dict(temperature=3.0, top_k=0, top_p=0.99),
    dict(temperature=3.0, top_k=0, min_p=1e-9),
    dict(temperature=1.0, repeat_penalty=0.9),
    dict(repeat_penalty=0.9),
    dict(temperature=1.0, top_k=0, top_p=0.5, repeat_penalty=1.1),
])  # fmt: skip
def test_the_summary_is_not_enough(options: dict) -> None:
    logits = logits_of(1, 20_000, 2.0, 0)
    sampler = Sampler(SamplingParams(seed=1, **options), np.array([3], np.int32), 20_000)
    summary = replace(summarise(logits, [sampler.temperature] * 3), logits=None)
    with pytest.raises(TypeError, match="NoneType"):
        sampler.choose(summary, 0)


def test_a_token_from_beyond_may_overtake_a_penalised_one() -> None:
    """All candidates were seen, and the penalty puts them below the token that is no candidate."""
    logits = np.full((1, TOP + 9), 3.0, np.float32)
    logits[0, :TOP] = 4.0
    sampler = Sampler(SamplingParams(repeat_penalty=2.0), np.arange(TOP, dtype=np.int32), TOP + 9)
    assert sampler.choose(summarise(logits), 0)[0] == TOP


def test_a_nucleus_too_close_to_its_edge_is_not_decided() -> None:
    """Weights 1/2, 1/4, 1/4: a share of one half is reached by the first token, or is not, as the total rounds."""
    scores, vocab = np.log(np.array([2, 1, 1], np.float32)), 10
    for share, expected in ((0.5, None), (0.499, 1), (0.501, 2), (0.75, None), (0.76, 3)):
        params = SamplingParams(temperature=1.0, top_k=0, top_p=share)
        weights = filtered(scores, params, vocab, total=2.0 - 1e-9)
        assert (None if weights is None else weights.size) == expected


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(temperature=1.0)])
def test_logits_that_are_no_numbers(bad: float, params: SamplingParams) -> None:
    logits = logits_of(1, 1000, 1.0, 0)
    logits[1, 70] = bad
    sampler, summary = Sampler(params, NO_PROMPT, 1000), summarise(logits)
    sampler.choose(summary, 0)
    with pytest.raises(ModelError, match=r"logits hold (nan|inf); expected finite"):
        sampler.choose(summary, 1)
    with pytest.raises(ModelError, match="-inf"):
        sampler.choose(summarise(np.full((1, 1000), -np.inf, np.float32)), 0)
