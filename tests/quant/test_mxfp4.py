"""MXFP4: every code and several scales by hand, checkpoints without loss, and the rounding of the standard."""

import numpy as np
import pytest

from lepton_edge.errors import RequestError
from lepton_edge.quant.formats import MXFP4, mxfp4

# OCP MX 1.0, section 5.3.3: E2M1, by code.
VALUES = [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6]


def test_every_code_and_several_scales() -> None:
    """Of 16 rows, 15 hold 15 scales, the smallest and the largest too; the last holds zeros."""
    exponents = [-127, -126, -125, -60, -9, -2, -1, 0, 1, 2, 9, 60, 100, 124, 125]
    blocks, scales = np.zeros((16, 2, 16), np.uint8), np.zeros((16, 2), np.uint8)
    blocks[:15, 0] = [16 * odd + even for even, odd in [(2 * i, 2 * i + 1) for i in range(8)] * 2]  # 0 … 15, twice
    blocks[:15, 1] = [16 * even + even for even in range(16)]  # each code twice in a row
    scales[:15] = np.array(exponents)[:, None] + 127
    scales[:15, 1] = 127
    packed = MXFP4.from_checkpoint(blocks, scales)
    found = MXFP4.unpack(packed, 16, 64)
    for row, exponent in enumerate(exponents):
        assert found[row, :32].tolist() == [2.0**exponent * value for value in VALUES * 2]
        assert found[row, 32:].tolist() == [value for value in VALUES for _ in range(2)]
    assert not found[15].any()
    np.testing.assert_array_equal(MXFP4.unpack(MXFP4.pack(found), 16, 64), found)


@pytest.mark.parametrize("step", [1, 5000, 1 << 19])
def test_any_codes_and_scales_survive_packing(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows are repacked at a time."""
    monkeypatch.setattr(mxfp4, "STEP", step)
    rng = np.random.default_rng(1)
    blocks, scales = rng.integers(0, 256, (48, 5, 16), np.uint8), rng.integers(0, 253, (48, 5), np.uint8)
    low, high = np.array(VALUES)[blocks & 15], np.array(VALUES)[blocks >> 4]
    expected = np.ldexp(np.stack([low, high], axis=-1).reshape(48, 5, 32), scales[:, :, None].astype(int) - 127)
    found = MXFP4.unpack(MXFP4.from_checkpoint(blocks, scales), 48, 160)
    np.testing.assert_array_equal(found, expected.reshape(48, 160))
    np.testing.assert_array_equal(MXFP4.unpack(MXFP4.pack(found), 48, 160), found)


@pytest.mark.parametrize("scale", [253, 254, 255])
def test_scales_that_are_not_finite_are_refused(scale: int) -> None:
    """255 is NaN; times 2^126 and 2^127 a weight may be infinite in float32."""
    scales = np.full((16, 2), 127, np.uint8)
    scales[7, 1] = scale
    with pytest.raises(RequestError, match="NaN, infinite or too large for mxfp4"):
        MXFP4.from_checkpoint(np.zeros((16, 2, 16), np.uint8), scales)


def test_rounding() -> None:
    """To the nearest, ties to the even code; the scale is that of the largest magnitude's exponent less 2."""
    w = np.zeros((1, 64), np.float32)
    given = [6, 0.25, 0.26, 0.75, 0.74, 1.25, 1.26, 1.75, 1.74, 2.5, 2.6, 3.5, 3.4, 5, 5.1, -0.75, -5]
    w[0, : len(given)], w[0, 32] = given, 7.9 / 4
    expected = [6, 0, 0.5, 1, 0.5, 1, 1.5, 2, 1.5, 2, 3, 4, 3, 4, 6, -1, -4]
    found = MXFP4.unpack(MXFP4.pack(w), 1, 64)[0]
    assert found[: len(given)].tolist() == expected and found[32] == 6 / 4
