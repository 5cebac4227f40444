"""Norm, quantizing, gated activation, picking rows: each token's row by itself."""

import numpy as np
import pytest
from kernels.harness import ISAS, Rig, U, check_records, pad, read_records, record_bytes

from lepton_edge.kernels.ops import ACTIVATIONS, WANTED
from lepton_edge.program.reference import ACTIVATION

each_isa = pytest.mark.parametrize("isa", ISAS)
T, COLUMNS = (1, 2, 3, 5, 8, 9, 16, 21), (1, 31, 32, 33, 64, 100, 576)


def normal(seed, *shape, scale=1.0):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def rms_norm(isa, x, weight, eps=1e-5, *, quantized=True, threads=1, wanted=()):
    """-> y [T, n] and its records, which are checked against it."""
    t, n = len(wanted) or len(x), x.shape[1]
    rig = Rig(isa, len(x), wanted=wanted)
    source, w = rig.memory.padded(x), rig.memory.padded(weight[None])
    y = rig.memory.padded(np.full((len(x), n), 7, np.float32))
    records, ld = rig.memory.bytes(record_bytes(t, n)), y.shape[1]
    rig.row("rms_norm", x=source, ldx=ld, weight=w, bias=None, y=y, ldy=ld, n=n, eps=eps,
            accumulate=0, records=records if quantized else None, groups=ld // 32, own=0,
            **(dict(count=WANTED) if wanted else {})).run(threads)  # fmt: skip
    assert not y[:, n:].any()
    if quantized:
        check_records(records, isa, y[:t])
    else:
        assert not records.any()
    return y[:, :n], records


@each_isa
def test_rms_norm(isa):
    for t in T:
        for n in COLUMNS:
            x, weight, eps = normal((t, n), t, n), normal(n, n), 1e-5
            y, _ = rms_norm(isa, x, weight, eps, quantized=n % 2 == 0)
            wide = x.astype(np.float64)
            expected = wide / np.sqrt((wide**2).mean(1, keepdims=True) + eps) * weight
            # The sum of n squares is off by (n + 1) U at most, its root by half that; then six single roundings.
            assert (np.abs(y - expected) <= (n / 2 + 7) * U * np.abs(expected)).all()


@each_isa
@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e15])
def test_rms_norm_scales(isa, scale):
    """x where x^2 is far below eps, near it, and near the largest float."""
    x, eps = normal(1, 3, 64, scale=scale), 1e-6
    y, _ = rms_norm(isa, x, np.ones(64, np.float32), eps)
    wide = x.astype(np.float64)
    expected = wide / np.sqrt((wide**2).mean(1, keepdims=True) + eps)
    assert (np.abs(y - expected) <= 40 * U * np.abs(expected)).all()


@each_isa
def test_rms_norm_of_zeros_is_zero(isa):
    y, records = rms_norm(isa, np.zeros((9, 70), np.float32), np.ones(70, np.float32))
    assert not y.any() and not records.any()


@each_isa
def test_rms_norm_runs_over_the_wanted_tokens(isa):
    x = normal(1, 9, 64)
    y, _ = rms_norm(isa, x, np.ones(64, np.float32), wanted=(2, 5))
    assert np.array_equal(y[:2], rms_norm(isa, x, np.ones(64, np.float32))[0][:2]) and (y[2:] == 7).all()


@each_isa
@pytest.mark.parametrize("threads", [2, 3])
def test_rms_norm_threads(isa, threads):
    x, weight = normal(1, 21, 100), normal(2, 100)
    for one, more in zip(rms_norm(isa, x, weight), rms_norm(isa, x, weight, threads=threads), strict=True):
        assert np.array_equal(one, more)


def quantize(isa, x, threads=1):
    rig = Rig(isa, len(x))
    source, records = rig.memory.padded(x), rig.memory.bytes(record_bytes(*x.shape))
    ld = source.shape[1]
    rig.row("quantize", x=source, ldx=ld, records=records, groups=ld // 32).run(threads)
    return source, records


@each_isa
def test_quantize(isa):
    for t in T:
        for n in COLUMNS:
            source, records = quantize(isa, normal((t, n), t, n), threads=1 + n % 3)
            check_records(records, isa, source)


@each_isa
@pytest.mark.parametrize("scale", [0.0, 1e-40, 1e-31, 1e-20, 1e20, 3e38])
def test_quantize_scales(isa, scale):
    """Below 1e-30 a group may become zero; up to the largest float all works."""
    x = (np.random.default_rng(1).uniform(-1, 1, (5, 96)) * scale).astype(np.float32)
    source, records = quantize(isa, x)
    if scale >= 1e-29 or scale == 0:
        check_records(records, isa, source)
    codes, scales, sums = read_records(records, isa, 5)
    assert np.isfinite(scales).all() and (sums == -8 * codes.sum(2)).all()
    exact = source.reshape(5, -1, 32).astype(np.float64)
    assert (np.abs(codes * scales.astype(np.float64)[:, :, None] - exact) <= 0.51 * scales[:, :, None] + 1e-30).all()


@each_isa
def test_quantize_rounds_ties_to_even(isa):
    x = np.zeros((1, 32), np.float32)
    x[0, :9] = 127, 0.5, 1.5, 2.5, 3.5, -0.5, -1.5, -2.5, 126.5
    _, records = quantize(isa, x)
    codes, scales, _ = read_records(records, isa, 1)
    assert codes[0, 0, :9].tolist() == [127, 0, 2, 2, 4, 0, -2, -2, 126] and scales[0, 0] == 1


@each_isa
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_quantize_does_not_hide_what_is_not_finite(isa, bad):
    """The group's scale says so, wherever in the group it lies; the other groups are not touched."""
    for place in (0, 15, 16, 31):
        x = normal(1, 3, 96)
        x[1, 32 + place] = bad
        _, records = quantize(isa, x)
        _, scales, _ = read_records(records, isa, 3)
        assert (np.isfinite(scales) == [[True] * 3, [True, False, True], [True] * 3]).all()


def swiglu(isa, gate, up, threads=1, quantized=True):
    t, n = gate.shape
    rig = Rig(isa, t)
    g, u = rig.memory.padded(gate), rig.memory.padded(up)
    ld, records = g.shape[1], rig.memory.bytes(record_bytes(t, n))
    rig.row("activate", gate=g, up=u, ldx=ld, y=g, ldy=ld, n=n, activation=0, records=records if quantized else None,
            groups=ld // 32).run(threads)  # fmt: skip
    assert not g[:, n:].any() and np.array_equal(u[:, :n], up, equal_nan=True)
    if quantized:
        check_records(records, isa, g)
    else:
        assert not records.any()
    return g[:, :n], records


def swiglu_expected(gate, up):
    wide = gate.astype(np.float64)
    with np.errstate(over="ignore"):
        return wide / (1 + np.exp(-wide)) * up


@each_isa
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_swiglu(isa, threads):
    """Few tokens split their columns over the threads, many do not: both, and the same bits."""
    for t in T:
        for n in COLUMNS:
            gate, up = normal((t, n), t, n, scale=3), normal((t, n, 1), t, n)
            y, records = swiglu(isa, gate, up, threads, quantized=n % 2 == 0)
            expected = swiglu_expected(gate, up)
            # exp is off by 2e-7 at most, then a sum, a quotient and two products; 1e-38: below it floats lose digits.
            assert (np.abs(y - expected) <= (2e-7 + 5 * U) * np.abs(expected) + 1e-38).all()
            if threads > 1:
                alone = swiglu(isa, gate, up, quantized=n % 2 == 0)
                assert np.array_equal(y, alone[0]) and np.array_equal(records, alone[1])


@each_isa
def test_swiglu_over_the_whole_range(isa):
    """exp stops at e^88 and e^-87: what lies beyond is below 1e-34, or equal to the gate, either way."""
    gate = np.concatenate([np.linspace(-1000, 1000, 3999), [-0.0, 1e30, -1e30, 3e38, -3e4]]).astype(np.float32)[None]
    y, _ = swiglu(isa, gate, np.ones_like(gate), quantized=False)
    expected = swiglu_expected(gate, np.ones_like(gate))
    beyond = np.abs(gate) * np.exp(-87.0)
    assert (np.abs(y - expected) <= (2e-7 + 5 * U) * np.abs(expected) + beyond).all()


@each_isa
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_swiglu_does_not_hide_what_is_not_finite(isa, bad):
    gate, up = normal(1, 2, 64), normal(2, 2, 64)
    gate[1, 3], up[1, 40] = bad, bad
    y, _ = swiglu(isa, gate, up, quantized=False)
    assert (~np.isfinite(y) == ~(np.isfinite(gate) & np.isfinite(up))).all()


@each_isa
def test_gather(isa):
    for threads, wanted in ((1, (0, 3, 8)), (2, (8,)), (3, tuple(range(9))), (1, ())):
        rig = Rig(isa, 9, wanted=wanted)
        x = rig.memory.padded(normal(1, 9, 70))
        y = rig.memory.padded(np.full((9, 70), 7, np.float32))
        rig.row("gather", count=WANTED, x=x, ldx=x.shape[1], y=y, ldy=y.shape[1], n=x.shape[1]).run(threads)
        assert np.array_equal(y[: len(wanted)], x[list(wanted)]) and (y[len(wanted) :, :70] == 7).all()


@each_isa
@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("bias,accumulate", [(False, False), (True, False), (True, True), (False, True)])
def test_norms_with_a_bias_and_added(isa, kind, bias, accumulate):
    for t, n in ((1, 1), (2, 33), (3, 31), (5, 64), (9, 100)):
        x, weight, b, old = normal((t, n), t, n) + 3, normal(n, n), normal((n, 1), n), normal((n, 2), t, n)
        rig = Rig(isa, t)
        m, ld, records = rig.memory, pad(n), rig.memory.bytes(record_bytes(t, n))
        y = m.padded(old)
        rig.row(f"{kind}_norm", x=m.padded(x), ldx=ld, weight=m.padded(weight[None]),
                bias=m.padded(b[None]) if bias else None, y=y, ldy=ld, n=n, eps=1e-5, accumulate=int(accumulate),
                records=records, groups=ld // 32, own=0).run(1 + t % 3)  # fmt: skip
        wide = x.astype(np.float64)
        mean = wide.mean(1, keepdims=True) if kind == "layer" else 0.0
        size = np.sqrt(((wide - mean) ** 2).mean(1, keepdims=True) + 1e-5)
        away = (wide - mean) / size * weight
        rest = (b if bias else 0) + (old if accumulate else 0.0)
        # The mean is off by n U |x|, so is every distance from it; then the sum of squares and single roundings.
        off = (n + 2) * U * (np.abs(wide).max(1, keepdims=True) / size) * np.abs(weight)
        off = off * (1 + np.abs(wide - mean) / size) if kind == "layer" else 0
        bound = off + (n / 2 + 8) * U * np.abs(away) + 3 * U * (np.abs(away) + np.abs(b) + np.abs(old))
        assert (np.abs(y[:, :n] - (away + rest)) <= bound).all() and not y[:, n:].any()
        check_records(records, isa, y)


@each_isa
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations(isa, kind, gated):
    """exp and erf are off by 5e-7 of a share that is at most 1, the arguments of exp by a few U of at most 100."""
    for t, n in ((1, 100), (7, 33)):
        gate = np.linspace(-12, 12, t * n).astype(np.float32).reshape(t, n)
        up, rig = normal(1, t, n), Rig(isa, t)
        g, u, ld = rig.memory.padded(gate), rig.memory.padded(up), pad(n)
        rig.row("activate", gate=g, up=u if gated else None, ldx=ld, y=g, ldy=ld, n=n, records=None, groups=ld // 32,
                activation=ACTIVATIONS.index(kind)).run(1 + t % 3)  # fmt: skip
        factor = up.astype(np.float64) if gated else 1.0
        expected = ACTIVATION[kind](gate.astype(np.float64)) * factor
        assert (np.abs(g[:, :n] - expected) <= 2e-6 * np.abs(expected) + 6e-7 * np.abs(gate * factor)).all()
        assert not g[:, n:].any()


@each_isa
@pytest.mark.parametrize("soft", [0, 1])
def test_limit(isa, soft):
    for t, n, threads in ((1, 5000, 3), (3, 33, 1)):
        x, rig = normal(1, t, n, scale=4), Rig(isa, t)
        y, bad = rig.memory.padded(x), n // 2
        y[0, bad] = np.nan
        rig.row("limit", x=y, ldx=y.shape[1], n=n, limit=2.5, soft=soft).run(threads)
        wide = x.astype(np.float64)
        expected = 2.5 * np.tanh(wide / 2.5) if soft else np.clip(wide, -2.5, 2.5)
        near = np.abs(y[:, :n] - expected) <= 1e-6 * np.abs(expected)
        assert np.isnan(y[0, bad]) and near.sum() == t * n - 1 and not y[:, n:].any()


@each_isa
def test_grow(isa):
    """One rounding; the tokens of a batch have any positions."""
    positions, n = [0, 7, 8, 23, 4, 16, 15], 70
    x, rig = normal(1, len(positions), n), Rig(isa, len(positions), positions=positions)
    y, table = rig.memory.padded(x), rig.memory.padded(np.array([[1, 1.5, 3]], np.float32) / 7)
    rig.row("grow", x=y, ldx=y.shape[1], n=n, table=table, every=8).run(threads=3)
    assert np.array_equal(y[:, :n], x * table[0, [0, 0, 1, 2, 0, 2, 1], None]) and not y[:, n:].any()
