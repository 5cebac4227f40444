"""The words that kernels are written in, on every instruction set: values, rounding, limits and NaN."""

import math
from pathlib import Path

import numpy as np
import pytest
from kernels.harness import EMULATED, ISAS, U
from processes import run_python

GIVEN = {
    "exp": np.concatenate([np.linspace(-90, 90, 180_001), [-1e30, 1e30, np.inf, -np.inf, np.nan, 0, -0.0]]),
    "small": np.concatenate([np.arange(-127, 127.25, 0.25), np.random.default_rng(1).uniform(-127, 127, 4000)]),
    "rounds": np.random.default_rng(2).uniform(-4e6, 4e6, 16_000),
    "pairs": np.random.default_rng(3).standard_normal(3200) * 10.0 ** np.random.default_rng(4).uniform(-9, 9, 3200),
    "floats": np.zeros(0),
}
GIVEN = {name: np.resize(values, -(-values.size // 32) * 32).astype(np.float32) for name, values in GIVEN.items()}
# Every half float, the middle between it and the next, and the neighbours of both; then all exponents of float32.
HALVES = np.arange(65536, dtype=np.uint16)
WIDE = HALVES.view(np.float16).astype(np.float32)
with np.errstate(invalid="ignore", over="ignore"):
    MIDDLE = (WIDE + np.roll(WIDE, -1)) / 2
    AROUND = [np.nextafter(v, np.float32(to)) for v in (WIDE, MIDDLE) for to in (-np.inf, np.inf)]
BITS = np.random.default_rng(5).integers(0, 1 << 32, 65536, np.uint32).view(np.float32)
GIVEN["floats"] = np.concatenate([WIDE, MIDDLE, *AROUND, BITS])
GIVEN["halves"], GIVEN["some_halves"] = HALVES, HALVES[15000:15016].copy()
LIMITS = [(base, low, high) for base in (0, 32) for low in (0, 31, 33, 40, 48) for high in (0, 32, 40, 47, 60)]
GIVEN["codes"] = np.random.default_rng(6).permutation(np.arange(256) % 16).astype(np.uint8)
GIVEN["limits"] = np.array([*LIMITS, (0, 0, 1 << 24), (1 << 24, 0, (1 << 24) + 3)], np.int64)


@pytest.fixture(scope="module", params=[*ISAS, *EMULATED])
def found(request, tmp_path_factory):
    """What every word made of GIVEN."""
    folder = tmp_path_factory.mktemp(request.param.replace("@", "_"))
    np.savez(folder / "in.npz", **GIVEN)
    run_python(Path(__file__).parent / "words_program.py", request.param, folder / "in.npz", folder / "out.npz")
    return dict(np.load(folder / "out.npz"))


def same(a, b):
    """The same bits, but any NaN for NaN."""
    return (a.view(np.uint32) == np.asarray(b, np.float32).view(np.uint32)) | (np.isnan(a) & np.isnan(b))


def test_exp(found):
    x = GIVEN["exp"]
    expected = np.exp(np.clip(x.astype(np.float64), -87, 88))
    number = ~np.isnan(x)
    assert (np.abs(found["exp"] - expected)[number] <= 2e-7 * expected[number]).all()
    assert np.isnan(found["exp"][~number]).all() and (~number).any()
    assert (found["exp"][x == 0] == 1).all()


@pytest.mark.parametrize(("name", "scale", "limit"), [("tanh", 8, 9), ("erf", 16, 4)])
def test_tanh_and_erf(found, name, scale, limit):
    """Off by what the words say, 5e-7; where they stop they are as far from 1 as the functions are."""
    x = (GIVEN["exp"] / np.float32(scale)).astype(np.float64)
    number = ~np.isnan(x)
    expected = np.array([getattr(math, name)(v) for v in np.clip(x[number], -limit, limit)])
    assert (np.abs(found[name][number] - expected) <= 5e-7 * np.abs(expected)).all()
    assert np.isnan(found[name][~number]).all()


def test_exp2(found):
    """Of numbers up to 0: nothing is left of what float32 could not hold as a normal number."""
    x = -np.abs(GIVEN["exp"])
    number, normal = ~np.isnan(x), x >= -126
    expected = np.exp2(x.astype(np.float64))
    assert (np.abs(found["exp2"] - expected)[normal] <= 2e-7 * expected[normal]).all()
    assert (found["exp2"][x < -126.5] == 0).all() and (found["exp2"][number & ~normal] <= 2.0**-126).all()
    assert np.isnan(found["exp2"][~number]).all()
    assert (found["exp2"][x == 0] == 1).all()


def test_load_i8(found):
    assert np.array_equal(found["load_i8"], np.resize(np.arange(-128, 128), GIVEN["exp"].size))


def test_fp4(found):
    """E2M1 (OCP MX 1.0, table 5), twice and plus 12."""
    values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
    assert np.array_equal(found["fp4"], 2 * values[GIVEN["codes"]] + 12)


def test_widen_f16(found):
    assert same(found["widen_f16"], WIDE).all()


def test_widen_bf16(found):
    assert same(found["widen_bf16"], (HALVES.astype(np.uint32) << 16).view(np.float32)).all()


def test_narrow_f16(found):
    """Nearest, ties to even; what is too large, infinities too, becomes the largest finite number; NaN stays NaN."""
    x = GIVEN["floats"]
    expected = np.clip(x, -65504, 65504).astype(np.float16)
    y = found["narrow_f16"].view(np.float16)
    assert np.array_equal(np.isnan(y), np.isnan(x)) and not np.isinf(y).any()
    number = ~np.isnan(x)
    assert np.array_equal(y.view(np.uint16)[number], expected.view(np.uint16)[number])


def test_round(found):
    """Ties to even, as NumPy's rint."""
    assert np.array_equal(found["round_i8"], np.rint(GIVEN["small"]).astype(np.int8))
    assert np.array_equal(found["round_sum"], np.rint(GIVEN["rounds"]).astype(np.int64).reshape(-1, 16).sum(1))


def test_arithmetic(found):
    a, b = np.moveaxis(GIVEN["pairs"].reshape(-1, 2, 16), 1, 0).reshape(2, -1)
    limits = dict(max=np.maximum(a, b), min=np.minimum(a, b))
    for name, expected in dict(add=a + b, sub=a - b, mul=a * b, div=a / b, **limits).items():
        assert same(found[name], expected).all(), name
    exact = a.astype(np.float64) * b + a
    assert (np.abs(found["fma"] - exact) <= 2 * U * (np.abs(a.astype(np.float64) * b) + np.abs(exact)) + 1e-45).all()
    assert same(found["abs"], np.abs(GIVEN["floats"])).all()
    with np.errstate(invalid="ignore"):
        assert same(found["sqrt"], np.sqrt(GIVEN["exp"])).all()


def test_reductions(found):
    floats = GIVEN["floats"].reshape(-1, 16)
    with np.errstate(over="ignore", invalid="ignore"):
        exact, size = floats.astype(np.float64).sum(1), np.abs(floats).astype(np.float64).sum(1)
        usual = size < 1e38
        assert usual.sum() > 20_000 and (np.abs(found["reduce_add"] - exact)[usual] <= 4 * U * size[usual]).all()
    assert np.array_equal(found["reduce_max"], GIVEN["small"].reshape(-1, 16).max(1))
    assert same(found["largest"], np.abs(floats).max(1)).all()


def test_parts_of_a_register(found):
    """Lanes past n are zeros when loaded, and are not touched when stored."""
    values, halves = GIVEN["pairs"][:16], GIVEN["some_halves"]
    widened = [halves.view(np.float16).astype(np.float32), (halves.astype(np.uint32) << 16).view(np.float32)]
    whole = [values, *widened, values]
    for kind in range(4):
        for n in range(20):
            expected = np.where(np.arange(16) < n, whole[kind], 7 if kind == 3 else 0)
            assert same(found["some"][kind, n], expected).all(), (kind, n)


def test_within(found):
    for y, (base, low, high) in zip(found["within"], GIVEN["limits"], strict=True):
        lanes = base + np.arange(16)
        assert same(y, np.where((lanes >= low) & (lanes <= high), GIVEN["pairs"][:16], -5)).all(), (base, low, high)


def test_scalars(found):
    raw, y = GIVEN["pairs"][:16].view(np.uint8), found["scalars"]
    assert np.array_equal(y[:64], raw)
    assert np.array_equal(y[64:192].view(np.int64), raw[:16])
    assert np.array_equal(y[192:320].view(np.int64), raw.view(np.uint16)[:16])
    assert np.array_equal(y[320:448].view(np.int64), raw.view(np.int32))
    assert np.array_equal(y[448:480], raw[:32])
    assert (y[480:544].view(np.float32) == raw.view(np.float32)[0]).all()
    assert (y[544:608].view(np.float32) == raw.view(np.float32)[1]).all()
    counter = y[608:].view(np.int64)
    assert counter[:3].tolist() == [0, 5, 5] and counter[3] == raw.view(np.int64)[0] and counter[4] > 0


# -- words at the width of the machine's own registers -------------------------------------------------------------


def bf16(x):
    """float32 -> the bits of the nearest bf16, ties to even; NaN becomes a NaN."""
    bits = x.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(x), bits >> 16 | 0x40, rounded).astype(np.uint16)


def widened(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def test_round_pairs(found):
    """In the order of the floats; instructions may flush what is below the smallest normal float to zero."""
    x, y = GIVEN["floats"], found["round_pairs"]
    tiny = np.abs(x) < 2.0**-126
    assert np.array_equal(y[~tiny], bf16(x)[~tiny])
    assert ((y == bf16(x)) | (y & 0x7FFF == 0))[tiny].all()


def test_dot_bf16(found):
    """Rounded after each of the two products."""
    lanes = found["lanes"]
    parts = GIVEN["pairs"][: found["dot_bf16"].size * 5].reshape(-1, 5 * lanes).astype(np.float32)
    total, a, b = parts[:, :lanes], parts[:, lanes : 3 * lanes], parts[:, 3 * lanes :]
    terms = (widened(bf16(a)).astype(np.float64) * widened(bf16(b))).reshape(-1, lanes, 2)
    size = np.abs(total) + np.abs(terms).sum(2)
    exact = total + terms.sum(2)
    assert (np.abs(found["dot_bf16"].reshape(-1, lanes) - exact) <= 4 * U * size + 1e-37).all()


def test_sum_four(found):
    lanes = found["lanes"]
    terms = GIVEN["pairs"].reshape(-1, 4, lanes).astype(np.float64)
    error = np.abs(found["sum_four"].reshape(-1, 4) - terms.sum(2))
    assert (error <= 4 * U * np.abs(terms).sum(2)).all()
