"""Rotary tables against transformers' stored frequencies, and against the papers' formulas written pair by pair."""

import math

import numpy as np
import pytest
from golden.recipe import load
from golden.ropes import ROPES
from hypothesis import given
from hypothesis import strategies as st

from lepton_edge.models.fields import Fields
from lepton_edge.models.rope import Dynamic, Linear, Llama3, RopeSpec, Yarn, read_rope

# transformers computes frequencies in float32: a power, a division and up to four roundings of a blend.
FREQUENCY_TOLERANCE = 8 * float(np.finfo(np.float32).eps)
# The tables are float64 rounded once to float32; angles below 2^18 carry an absolute float64 error below 2^-34.
TABLE_TOLERANCE = float(np.finfo(np.float32).eps)

SPECS = {
    "plain": RopeSpec(10000.0, 64),
    "linear": RopeSpec(500.0, 24, Linear(4.0)),
    "dynamic": RopeSpec(10000.0, 16, Dynamic(2.5, 100)),
    "llama3": RopeSpec(500000.0, 64, Llama3(32.0, 1.0, 4.0, 8192)),
    "yarn": RopeSpec(10000.0, 64, Yarn(4.0, 2048, 32.0, 1.0, 1.25, True)),
    "yarn untruncated": RopeSpec(5000.0, 40, Yarn(8.0, 512, 16.0, 0.5, 1.0, False)),
}


def frequency(rope: RopeSpec, pair: int, position: int) -> float:
    """The angle per position of one pair, from the papers, with nothing but scalars."""
    plain = rope.theta ** (-2 * pair / rope.dim)
    match rope.scaling:
        case None:
            return plain
        case Linear(factor):
            return plain / factor
        case Dynamic(factor, original):
            length = max(position + 1, original)
            theta = rope.theta * (factor * length / original - factor + 1) ** (rope.dim / (rope.dim - 2))
            return theta ** (-2 * pair / rope.dim)
        case Llama3(factor, low, high, original):
            wave = 2 * math.pi / plain
            if wave < original / high:
                return plain
            if wave > original / low:
                return plain / factor
            smooth = (original / wave - low) / (high - low)
            return (1 - smooth) * plain / factor + smooth * plain
        case Yarn(factor, original, fast, slow, _, truncate):
            # The pair whose wave fits `turns` times into the original context, solved for its index.
            start, stop = (
                rope.dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))
                for turns in (fast, slow)
            )
            if truncate:
                start, stop = math.floor(start), math.ceil(stop)
            ramp = min(max((pair - start) / (stop - start), 0.0), 1.0)
            return (1 - ramp) * plain + ramp * plain / factor


@pytest.mark.parametrize("name", SPECS)
def test_tables_follow_the_papers(name: str) -> None:
    rope = SPECS[name]
    length = rope.scaling.attention_factor if rope.scaling else 1.0
    for start in (0, 95, 131000):
        cos, sin = rope.tables(start, start + 10)
        assert cos.dtype == sin.dtype == np.float32
        assert cos.shape == sin.shape == (10, rope.dim // 2)
        angles = [[p * frequency(rope, i, p) for i in range(rope.dim // 2)] for p in range(start, start + 10)]
        np.testing.assert_allclose(cos, length * np.cos(angles), rtol=0, atol=length * TABLE_TOLERANCE)
        np.testing.assert_allclose(sin, length * np.sin(angles), rtol=0, atol=length * TABLE_TOLERANCE)


@pytest.mark.parametrize("index", range(len(ROPES)))
def test_frequencies_are_those_of_transformers(index: int) -> None:
    setting, stored = ROPES[index], load("rope")
    rope, _ = read_rope(
        Fields({"rope_parameters": setting.parameters}, "config.json"), setting.dim, setting.max_positions
    )
    assert rope.theta == setting.parameters["rope_theta"]
    last = (setting.length or 1) - 1
    got = np.broadcast_to(
        rope.scaling.frequencies(rope.theta, rope.dim, np.array([float(last)])), (1, setting.dim // 2)
    )[0]
    np.testing.assert_allclose(got, stored[f"frequencies_{index}"], rtol=FREQUENCY_TOLERANCE, atol=0)
    assert rope.scaling.attention_factor == pytest.approx(float(stored[f"factor_{index}"]), rel=1e-12)


@pytest.mark.parametrize("name", SPECS)
@given(start=st.integers(0, 500), length=st.integers(0, 60))
def test_rows_do_not_depend_on_the_range(name: str, start: int, length: int) -> None:
    rope = SPECS[name]
    whole, part = rope.tables(0, 560), rope.tables(start, start + length)
    for all_rows, rows in zip(whole, part, strict=True):
        np.testing.assert_array_equal(rows, all_rows[start : start + length])


def test_dynamic_is_plain_within_the_trained_context() -> None:
    plain, dynamic = SPECS["plain"], RopeSpec(10000.0, 64, Dynamic(8.0, 128))
    np.testing.assert_allclose(dynamic.tables(0, 128), plain.tables(0, 128), rtol=0, atol=TABLE_TOLERANCE)
    assert np.abs(dynamic.tables(128, 129)[0] - plain.tables(128, 129)[0]).max() > 1e-3


def test_both_spellings_are_read() -> None:
    options = {"factor": 4.0, "original_max_position_embeddings": 64}
    spellings = [
        {"rope_theta": 500.0, "rope_scaling": {"type": "yarn"} | options},
        {"rope_theta": 500.0, "rope_scaling": {"rope_type": "yarn"} | options},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 500.0} | options},
        {"rope_theta": 7.0, "rope_parameters": {"rope_type": "yarn", "rope_theta": 500} | options},
    ]
    attention = 0.1 * math.log(4.0) + 1.0
    expected = RopeSpec(500.0, 64, Yarn(4.0, 64, 32.0, 1.0, attention, True))
    for fields in spellings:
        assert read_rope(Fields(fields, "config.json"), 64, 256) == (expected, 256)


def test_theta_defaults_to_that_of_transformers() -> None:
    for fields in ({}, {"rope_scaling": None}, {"rope_parameters": {}}, {"rope_scaling": {"rope_type": "default"}}):
        assert read_rope(Fields(fields, "config.json"), 64, 256) == (RopeSpec(10000.0, 64), 256)


def test_stretched_contexts() -> None:
    def context(**options: object) -> int:
        return read_rope(Fields({"rope_scaling": options}, "config.json"), 64, 1000)[1]

    assert context(type="linear", factor=4.0) == 1000
    assert context(type="dynamic", factor=2.5) == 2500
    assert context(type="yarn", factor=4.0) == 4000
    assert context(type="yarn", factor=4.0, original_max_position_embeddings=100) == 1000
    assert context(type="dynamic", factor=1e6) == 1 << 24
