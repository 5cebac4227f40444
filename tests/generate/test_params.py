"""Sampling parameters: what is refused, and what a model's generation_config.json says."""

from fractions import Fraction

import numpy as np
import pytest

from lepton_edge.errors import ConfigError, RequestError
from lepton_edge.generate.params import SamplingParams

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("max_tokens", [0, -1, 1.0, "5", True, NAN, 2**31]),
        ("temperature", [-0.1, NAN, INF, -INF, "1", True, 10**400, 1j]),
        ("top_k", [-1, 1.5, "5", False]),
        ("top_p", [0, 0.0, -0.5, 1.0001, NAN, INF, "0.5", True]),
        ("min_p", [-0.01, 1.01, NAN, "0", True]),
        ("repeat_penalty", [0, -1, NAN, INF, "1"]),
        ("seed", [-1, 1.0, "7", True]),
        ("stop", ["", [""], [1], 5, ["a", None], {"a": 1}]),
    ],
)
def test_wrong_values_are_refused(name: str, wrong: list) -> None:
    for value in wrong:
        with pytest.raises(RequestError, match=rf"^{name} is .*; expected") as caught:
            SamplingParams(**{name: value})
        assert isinstance(caught.value, ValueError)
        assert "\n" not in str(caught.value)


def test_right_values_are_kept_as_plain_python() -> None:
    params = SamplingParams(
        max_tokens=np.int64(3), temperature=1, top_k=np.uint8(4), top_p=Fraction(1, 2), min_p=np.float32(0.25),
        repeat_penalty=2, seed=1 << 100, stop=["a", "b"],
    )  # fmt: skip
    assert params == SamplingParams(3, 1.0, 4, 0.5, 0.25, 2.0, 1 << 100, ("a", "b"))
    assert [type(value) for value in (params.max_tokens, params.temperature, params.top_k)] == [int, float, int]
    assert SamplingParams(stop="end").stop == ("end",)
    hash(params)


def test_what_the_caller_gives_goes_first() -> None:
    defaults = SamplingParams(temperature=0.7, top_k=5, stop="x")
    assert defaults.given(top_k=0, temperature=None, stop=None) == SamplingParams(temperature=0.7, top_k=0, stop="x")
    assert defaults.given(stop=[]).stop == ()
    assert defaults.given(temperature=0).temperature == 0.0
    with pytest.raises(RequestError, match="top_k is -3"):
        defaults.given(top_k=-3)


def test_generation_config() -> None:
    def read(**config: object) -> SamplingParams:
        return SamplingParams.from_generation_config(config, "G")

    assert read() == SamplingParams() == SamplingParams(256, 0.0, 50, 1.0, 0.0, 1.0, None, ())
    assert read(do_sample=True) == SamplingParams(temperature=1.0)
    assert read(do_sample=False, temperature=0.6, top_p=0.9) == SamplingParams(top_p=0.9)
    assert read(
        do_sample=True, temperature=0.6, top_k=20, top_p=0.8, min_p=0.05, repetition_penalty=1.1, max_new_tokens=9,
        eos_token_id=[1, 2], max_length=20, transformers_version="5",
    ) == SamplingParams(9, 0.6, 20, 0.8, 0.05, 1.1)  # fmt: skip
    assert read(do_sample=True, temperature=None, top_k=None, top_p=None) == SamplingParams(temperature=1.0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("do_sample", 1),
        ("temperature", -1),
        ("temperature", "hot"),
        ("top_k", 1.5),
        ("top_p", 0),
        ("min_p", 2),
        ("repetition_penalty", 0),
        ("max_new_tokens", 0),
    ],
)
@pytest.mark.parametrize("sample", [True, False])
def test_a_wrong_generation_config_is_named(key: str, value: object, sample: bool) -> None:
    with pytest.raises(ConfigError, match=rf"^M/generation_config\.json: {key} is .*expected"):
        SamplingParams.from_generation_config({"do_sample": sample} | {key: value}, "M/generation_config.json")
