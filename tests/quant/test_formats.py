"""Every weight format: its exact layout by a slow independent reading, its rounding error, what it refuses."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_edge.errors import RequestError
from lepton_edge.quant.formats import FORMATS, get_format

PACKED = ["q4", "q8", "mxfp4"]
SHAPES = [(1, 1), (16, 32), (16, 64), (17, 33), (15, 31), (5, 100), (48, 96), (33, 320), (70, 1000)]


def normal(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((rows, columns)) * 0.05).astype(np.float32)


def slow_element(name: str, data: bytes, columns: int, row: int, column: int) -> float:
    """One weight of a packed matrix, straight from the layout's definition, byte by byte."""
    code, scale = slow_code(name, data, columns, row, column)
    return code * scale


def slow_code(name: str, data: bytes, columns: int, row: int, column: int) -> tuple[int, float]:
    """The code and the scale of one weight."""
    code_bytes = 512 if name == "q8" else 256
    groups = (columns + 31) // 32
    record = (groups * (code_bytes + 32) + 63) // 64 * 64
    g, k, r = column // 32, column % 32, row % 16
    group = row // 16 * record + g * (32 + code_bytes)
    if name != "q8":
        c, half, j = k // 8, k % 8 // 4, k % 4
        byte = data[group + 32 + c * 64 + r * 4 + j]
        code = byte >> 4 if half else byte & 15
        code = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)[code] if name == "mxfp4" else code - 8
    else:
        c, j = k // 4, k % 4
        code = data[group + 32 + c * 64 + r * 4 + j] - 128
    (scale,) = struct.unpack_from("<e", data, group + r * 2)
    if name == "mxfp4":
        (scale,) = struct.unpack("<f", b"\0\0" + data[group + r * 2 : group + r * 2 + 2])
    return code, scale


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("shape", [(1, 1), (17, 33), (33, 70), (16, 96)])
def test_layout_read_byte_by_byte(name: str, shape: tuple[int, int]) -> None:
    rows, columns = shape
    packed = get_format(name).pack(normal(rows, columns))
    fast = get_format(name).unpack(packed, rows, columns)
    data = packed.tobytes()
    slow = [[slow_element(name, data, columns, r, k) for k in range(columns)] for r in range(rows)]
    np.testing.assert_array_equal(fast, np.array(slow, np.float32))


@pytest.mark.parametrize("name", PACKED)
def test_padding_is_zero_weights_and_zero_bytes(name: str) -> None:
    rows, columns = 3, 33  # two groups: 2*(256+32)=576 and 2*(512+32)=1088 bytes, both whole multiples of 64
    data = get_format(name).pack(normal(rows, columns)).tobytes()
    for r in range(16):
        for k in range(64):
            if r >= rows or k >= columns:
                assert slow_element(name, data, 64, r, k) == 0
    one_group = get_format(name).pack(normal(1, 32)).tobytes()
    end = 544 if name == "q8" else 288
    assert len(one_group) == (576 if name == "q8" else 320)
    assert one_group[end:] == bytes(len(one_group) - end)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("q4", (16, 32), 320),
        ("q4", (16, 64), 576),
        ("q4", (17, 33), 1152),
        ("q8", (16, 32), 576),
        ("q8", (16, 64), 1088),
        ("q4", (0, 64), 0),
        ("q8", (16, 0), 0),
        ("f32", (3, 5), 60),
        ("f16", (3, 5), 30),
        ("bf16", (3, 5), 30),
    ],
)
def test_nbytes(name: str, shape: tuple[int, int], expected: int) -> None:
    assert get_format(name).nbytes(*shape) == expected
    w = np.zeros(shape, np.float32)
    packed = get_format(name).pack(w)
    assert packed.dtype == np.uint8 and packed.shape == (expected,)
    np.testing.assert_array_equal(get_format(name).unpack(packed, *shape), w)


def groups_of(w: np.ndarray) -> np.ndarray:
    """[N, K] -> [N, groups, 32], padded with zeros."""
    return np.pad(w, ((0, 0), (0, -w.shape[1] % 32))).reshape(len(w), -1, 32)


@pytest.mark.parametrize("shape", SHAPES)
def test_q8_error_is_half_a_step(shape: tuple[int, int]) -> None:
    w = normal(*shape)
    error = np.abs(groups_of(FORMATS["q8"].unpack(FORMATS["q8"].pack(w), *shape)) - groups_of(w)).max(axis=2)
    # Half a step of rounding; float16 rounds the step by 2^-11, which moves the extreme (127 steps) by 0.062 steps.
    step = np.abs(groups_of(w)).max(axis=2) / 127
    assert (error <= step * (0.5 + 127 * 2**-11 + 1e-5)).all()


def plain_q4(w: np.ndarray) -> np.ndarray:
    """Round to nearest with the extreme at -8 and nothing else: what the search has to beat."""
    groups = groups_of(w)
    extreme = np.take_along_axis(groups, np.abs(groups).argmax(axis=2)[:, :, None], axis=2)
    step = np.where(extreme == 0, 1, extreme / -8)
    return (np.clip(np.rint(groups / step), -8, 7) * step).reshape(len(w), -1)[:, : w.shape[1]]


@pytest.mark.parametrize("shape", SHAPES)
def test_q4_never_loses_to_plain_rounding(shape: tuple[int, int]) -> None:
    w = normal(*shape)
    ours = groups_of(FORMATS["q4"].unpack(FORMATS["q4"].pack(w), *shape) - w)
    plain = groups_of(plain_q4(w) - w)
    # Rounding the scale to float16 costs each weight at most 2^-11 of itself.
    slack = np.linalg.norm(groups_of(w), axis=2) * 2**-11
    assert (np.linalg.norm(ours, axis=2) <= np.linalg.norm(plain, axis=2) + slack).all()


def test_q4_search_gains_on_normal_weights() -> None:
    w = normal(64, 2048)
    ours = np.linalg.norm(FORMATS["q4"].unpack(FORMATS["q4"].pack(w), *w.shape) - w) / np.linalg.norm(w)
    plain = np.linalg.norm(plain_q4(w) - w) / np.linalg.norm(w)
    assert 0.075 < ours < 0.083 < plain < 0.09


@pytest.mark.parametrize("sign", [1, -1])
def test_q4_extreme_takes_the_lone_code(sign: int) -> None:
    w = np.zeros((1, 32), np.float32)
    w[0, 5], w[0, 7] = sign * 8, sign * -7
    packed = FORMATS["q4"].pack(w)
    np.testing.assert_array_equal(FORMATS["q4"].unpack(packed, 1, 32), w)
    (scale,) = struct.unpack_from("<e", packed.tobytes(), 0)
    assert scale == -sign


@pytest.mark.parametrize("name", ["q4", "q8"])
def test_codes_stay_in_their_range(name: str) -> None:
    w = (np.random.default_rng(3).standard_t(2, (64, 640)) * 10.0 ** np.arange(-8, 2).repeat(64)).astype(np.float32)
    data = FORMATS[name].pack(w)
    codes = [[slow_code(name, data.tobytes(), 640, r, k)[0] for k in range(640)] for r in range(64)]
    codes = np.array(codes)
    assert codes.min() == {"q4": -8, "q8": -127}[name]
    assert codes.max() == {"q4": 7, "q8": 127}[name]


@pytest.mark.parametrize("name", PACKED)
def test_row_blocks_can_be_packed_apart(name: str) -> None:
    w = normal(70, 100)
    whole = FORMATS[name].pack(w)
    parts = [FORMATS[name].pack(w[start : start + 32]) for start in range(0, 70, 32)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


@pytest.mark.parametrize("name", PACKED)
def test_many_chunks_equal_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    w = normal(200, 512)
    whole = FORMATS[name].pack(w)
    expected = FORMATS[name].unpack(whole, 200, 512)
    monkeypatch.setattr("lepton_edge.quant.formats.blocks.CHUNK", 1 << 30)
    np.testing.assert_array_equal(whole, FORMATS[name].pack(w))
    np.testing.assert_array_equal(expected, FORMATS[name].unpack(whole, 200, 512))


@pytest.mark.parametrize("name", ["q4", "q8"])
def test_groups_too_small_for_a_scale_become_zero(name: str) -> None:
    w = np.full((2, 64), 1e-9, np.float32)
    w[1, 32:] = 1e-42
    w[0, 40] = 1.0
    back = FORMATS[name].unpack(FORMATS[name].pack(w), 2, 64)
    expected = np.zeros_like(w)
    expected[0, 40] = back[0, 40]
    np.testing.assert_array_equal(back, expected)
    assert back[0, 40] == pytest.approx(1.0, rel=2**-10)


@pytest.mark.parametrize("name", list(FORMATS))
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_weights_are_refused(name: str, bad: float) -> None:
    w = normal(20, 70)
    w[18, 69] = bad
    with pytest.raises(RequestError, match=f"NaN, infinite or too large for {name}"):
        FORMATS[name].pack(w)


@pytest.mark.parametrize(
    ("name", "largest", "too_large"),
    [("f16", 65504, 65520), ("q4", 8 * 65504, 8 * 80000), ("q8", 127 * 65504, 127 * 65520), ("bf16", 3.3e38, 3.4e38)],
)
def test_largest_weight(name: str, largest: float, too_large: float) -> None:
    w = np.zeros((1, 32), np.float32)
    w[0, 3] = -largest
    assert FORMATS[name].unpack(FORMATS[name].pack(w), 1, 32)[0, 3] == pytest.approx(-largest, rel=0.004)
    w[0, 3] = -too_large
    with pytest.raises(RequestError, match="too large"):
        FORMATS[name].pack(w)


def test_plain_formats_round_to_nearest_even() -> None:
    w = normal(7, 13)
    np.testing.assert_array_equal(FORMATS["f32"].unpack(FORMATS["f32"].pack(w), 7, 13), w)
    np.testing.assert_array_equal(FORMATS["f16"].unpack(FORMATS["f16"].pack(w), 7, 13), w.astype(np.float16))
    assert (np.abs(FORMATS["bf16"].unpack(FORMATS["bf16"].pack(w), 7, 13) - w) <= np.abs(w) * 2**-8).all()
    # 1 + 2^-8 lies halfway between two bfloat16 values: 1 (even) wins; 1 + 3*2^-8 goes up to 1 + 2^-6 (even).
    halves = np.array([[1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 2**-133]], np.float32)
    expected = np.array([[1, 1 + 2**-6, -1, 2**-133]], np.float32)
    np.testing.assert_array_equal(FORMATS["bf16"].unpack(FORMATS["bf16"].pack(halves), 1, 4), expected)


@given(
    name=st.sampled_from(["q4", "q8"]),
    rows=st.integers(1, 40),
    columns=st.integers(1, 100),
    seed=st.integers(0, 2**32 - 1),
    exponent=st.integers(-12, 4),
)
def test_packing_what_was_unpacked_loses_little(name: str, rows: int, columns: int, seed: int, exponent: int) -> None:
    fmt = FORMATS[name]
    w = (np.random.default_rng(seed).standard_normal((rows, columns)) * 2.0**exponent).astype(np.float32)
    packed = fmt.pack(w)
    assert packed.size == fmt.nbytes(rows, columns)
    once = fmt.unpack(packed, rows, columns)
    twice = fmt.unpack(fmt.pack(once), rows, columns)
    # Values on a grid of the format fit it again: float16 rounding of the step is all that may change (plus, in q4,
    # a step of another size when the search finds one; its error is never above the plain rule's, which is a step's).
    step = np.abs(groups_of(w)).max(axis=2) / {"q4": 7, "q8": 127}[name]
    assert (np.abs(groups_of(once) - groups_of(twice)).max(axis=2) <= step).all()


def test_arguments_are_checked() -> None:
    with pytest.raises(RequestError, match="expected float32 of shape"):
        FORMATS["q4"].pack(np.zeros((2, 3), np.float64))
    with pytest.raises(RequestError, match="expected float32 of shape"):
        FORMATS["f16"].pack(np.zeros(3, np.float32))
    with pytest.raises(RequestError, match="expected 320 bytes"):
        FORMATS["q4"].unpack(np.zeros(319, np.uint8), 16, 32)
    with pytest.raises(RequestError, match="no weight format 'q5'; expected one of f32, f16, bf16, q8, q4, mxfp4"):
        get_format("q5")


def test_strided_input_packs_like_its_copy() -> None:
    w = normal(64, 32).T
    np.testing.assert_array_equal(FORMATS["q4"].pack(w), FORMATS["q4"].pack(np.ascontiguousarray(w)))
