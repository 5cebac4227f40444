"""y (+)= W x (+ bias): every format, instruction set and ragged shape against unpack + float64."""

from itertools import cycle, product

import numpy as np
import pytest
from kernels.harness import EMULATED, FOREIGN, FP4, ISAS, Rig, U, pack_codes, pad, read_records, record_bytes

from lepton_edge.kernels.machine import instruction_set
from lepton_edge.kernels.ops import LARGE, WANTED
from lepton_edge.quant.formats import FORMATS, get_format

PACKED = ("q4", "q8", "mxfp4")
LIMITS = {"q4": (-8, 7), "q8": (-127, 127), "mxfp4": (-12, 12)}  # of the codes
N, K, T = (1, 15, 16, 17, 40, 67), (1, 31, 32, 33, 64, 100, 256), (1, 2, 3, 5, 8, 9, 16, 21, 83)
each_packed = pytest.mark.parametrize("isa,format", list(product((*ISAS, *EMULATED, *FOREIGN), PACKED)))
each_case = pytest.mark.parametrize("isa,format", [
    (isa, format) for isa, format in product((*ISAS, *EMULATED, *FOREIGN), FORMATS)
    if format in PACKED or isa not in FOREIGN
])  # fmt: skip

PLAIN = [format for format in FORMATS if format not in PACKED]
each_plain = pytest.mark.parametrize("isa,format", list(product((*ISAS, *EMULATED), PLAIN)))


class Product:
    """One matrix product: its rows, its result, and what that must be."""

    def __init__(self, isa, format, data, shape, x, *, bias=None, old=None, wanted=()):
        """data: the weight's bytes.  x [T, K].  bias [N].  old [T, N]: accumulate onto it."""
        (n, k), t = shape, len(x)
        self.isa, self.format, self.shape, self.bias, self.old = isa, format, shape, bias, old
        self.rig = rig = Rig(isa, t, wanted=wanted)
        memory, self.count = rig.memory, len(wanted) or t
        self.x, w = memory.padded(x), memory.array(data)
        self.data = data
        self.y = memory.padded(np.full((t, n), 7, np.float32) if old is None else old)
        b = None if bias is None else memory.padded(bias[None])
        common = dict(y=self.y, ldy=self.y.shape[1], w=w, rows=n, bias=b, accumulate=int(old is not None), own=0)
        kind = dict(count=WANTED) if wanted else {}
        if format in PACKED:
            self.records, groups = memory.bytes(record_bytes(self.count, k)), pad(k) // 32
            blocks = pad(n, 16) // 16
            rig.row("quantize", x=self.x, ldx=self.x.shape[1], records=self.records, groups=groups, **kind)
            rig.row(f"matmul_{format}", x=self.records, blocks=blocks, groups=groups, block_bytes=len(data) // blocks,
                    **common, **kind)  # fmt: skip
        else:
            rig.row(f"matmul_{format}", x=self.x, ldx=self.x.shape[1], columns=k, **common, **kind)

    def run(self, threads=1, good=slice(None)):
        """-> y [T, N]; the padding of the good tokens must still be zero."""
        self.rig.run(threads)
        assert not self.y[good, self.shape[0] :].any(), "padding is no longer zero"
        return self.y[: self.count, : self.shape[0]]

    def expected(self):
        """(y, bound on the error), float64 [T, N].

        A sum of n float32 products in any order, with the bias and the old value, is off by at most about
        (n + 1) U sum|terms| (Higham 2002, 3.1).  Packed: a term is a group, whose integer sum is exact; its two scales
        are multiplied first, so 3 more roundings.  Pairs of bf16 are products of x rounded to bf16, as torch's are.
        """
        n, k = self.shape
        w = get_format(self.format).unpack(self.data, n, k).astype(np.float64)
        if self.format in PACKED:
            codes, scales, _ = read_records(self.records, self.isa, self.count)
            x = (codes * scales.astype(np.float64)[:, :, None])[:, :, None]
            terms = x @ np.pad(w, ((0, 0), (0, -k % 32))).reshape(n, -1, 32, 1).transpose(1, 2, 0, 3).reshape(-1, 32, n)
            terms = terms[:, :, 0]
        else:
            x = self.x[: self.count, :k]
            if self.format == "bf16" and instruction_set(self.isa).bf16_pairs:
                x = get_format("bf16").unpack(get_format("bf16").pack(x), *x.shape)
            terms = x[:, :, None].astype(np.float64) * w.T
        y, size, count = terms.sum(1), np.abs(terms).sum(1), terms.shape[1] + 6
        for more in (self.bias, None if self.old is None else self.old[: self.count]):
            if more is not None:
                y, size = y + more, size + np.abs(more)
        return y, count * U * size

    def check(self, threads=1):
        y = self.run(threads)
        expected, bound = self.expected()
        wrong = ~(np.abs(y - expected) <= bound)  # NaN is wrong
        assert not wrong.any(), f"{self.shape}, {len(self.x)} tokens: off at {np.argwhere(wrong)[:4].tolist()}"
        return y


def normal(seed, *shape, scale=1.0):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


@each_case
@pytest.mark.parametrize("n", N)
def test_ragged_shapes(isa, format, n):
    options = cycle(product((False, True), (False, True)))  # nine token counts: over the shapes, each meets all four
    for k in K:
        data = get_format(format).pack(normal((n, k), n, k))
        for t in T:
            bias, old = next(options)
            case = Product(isa, format, data, (n, k), normal((n, k, t), t, k), bias=normal(n, n) if bias else None,
                           old=normal(t, t, n) if old else None)  # fmt: skip
            case.check()


@each_case
@pytest.mark.parametrize("threads", [2, 3, 4])
def test_threads_do_not_matter(isa, format, threads):
    for (n, k), t in product([(1, 33), (67, 100), (523, 64)], (1, 9, 21)):
        data = get_format(format).pack(normal(n, n, k))
        case = Product(isa, format, data, (n, k), normal(t, t, k), bias=normal(k, n))
        alone = case.run().copy()
        case.y[:, :n] = 7
        assert np.array_equal(case.run(threads), alone)


@each_case
@pytest.mark.parametrize("shape", [(80, 8192), (1040, 96)])
def test_many_panels(isa, format, shape):
    """Weights beyond the bytes of a panel, and more panels than threads."""
    few = get_format(format).pack(normal(3, *shape))
    for t in (13, 83):
        Product(isa, format, few, shape, normal(4, t, shape[1]), bias=normal(5, shape[0])).check(threads=2)


@each_case
@pytest.mark.parametrize("w_scale", [1e-4, 1.0, 1e3])
@pytest.mark.parametrize("x_scale", [1e-20, 1.0, 1e20])
def test_scales(isa, format, w_scale, x_scale):
    data = get_format(format).pack(normal(1, 33, 100, scale=w_scale))
    Product(isa, format, data, (33, 100), normal(2, 9, 100, scale=x_scale)).check()


@each_case
def test_zeros(isa, format):
    for w, x in ((0, 1), (1, 0), (0, 0)):
        data = get_format(format).pack(np.full((40, 64), w, np.float32))
        y = Product(isa, format, data, (40, 64), np.full((9, 64), x, np.float32)).run()
        assert not y.any()


@each_case
def test_a_batch_of_wanted_tokens(isa, format):
    """Rows that run over the wanted tokens take that count, and leave the other tokens' rows alone."""
    data = get_format(format).pack(normal(1, 20, 64))
    case = Product(isa, format, data, (20, 64), normal(2, 7, 64), wanted=(1, 4, 6))
    case.check()
    assert (case.y[3:, :20] == 7).all()


@each_plain
@pytest.mark.parametrize("shape", [(1, 33), (34, 500), (200, 1100), (67, 2080)])
def test_a_token_is_the_same_in_any_batch(isa, format, shape):
    """Bit by bit: alone, among few, and among so many that they pass over panels."""
    data, x, bias = get_format(format).pack(normal(1, *shape)), normal(2, 86, shape[1]), normal(3, shape[0])
    alone = [Product(isa, format, data, shape, x[t : t + 1], bias=bias, old=x[t : t + 1, :1] * np.ones(shape[0], "f"))
             .run() for t in range(86)]  # fmt: skip
    for t in (2, 7, 39, 86):
        case = Product(isa, format, data, shape, x[:t], bias=bias, old=x[:t, :1] * np.ones(shape[0], "f"))
        assert np.array_equal(case.check(threads=2), np.concatenate(alone[:t]))


@each_packed
@pytest.mark.parametrize("pattern", ["low", "high", "alternating", "random", "hostile"])
def test_extreme_integers_are_exact(isa, format, pattern):
    """Codes and activations at their limits, all scales 1: every sum is an integer below 2^24, so y must be exact.

    16-bit pair sums (AVX2) saturate here if they are formed wrongly.  'hostile' has the code -128, which no packer
    writes but a file may hold.
    """
    low, high = LIMITS[format]
    n, k, t, rng = 32, 256, 85, np.random.default_rng(1)
    codes = {
        "low": np.full((n, k), low),
        "high": np.full((n, k), high),
        "alternating": np.where(np.arange(k) % 2, low, high) * np.ones((n, 1), int),
        "random": rng.choice([low, high], (n, k)),
        "hostile": rng.choice([-128 if format == "q8" else low, high], (n, k)),
    }[pattern]
    x = rng.choice([-127, 127], (t, k))
    x[0], x[1], x[2] = 127, -127, np.where(np.arange(k) % 2, 127, -127)
    for some in (x, x[:21], x[:1], x[1:2], x[2:3]):  # single tokens have code of their own
        case = Product(isa, format, pack_codes(format, codes, np.ones((n, k // 32))), (n, k), some.astype(np.float32))
        y = case.run()
        found, scales, _ = read_records(case.records, isa, len(some))
        assert (scales == 1).all() and np.array_equal(found.reshape(-1, k), some)
        assert np.array_equal(y, some @ codes.T)


@each_packed
def test_every_code_has_its_own_weight(isa, format):
    """One column at a time: W x picks single codes out of the layout, so a swapped byte or nibble shows."""
    low, high = LIMITS[format]
    n, k, rng = 48, 96, np.random.default_rng(2)
    codes = rng.integers(low, high + 1, (n, k))
    if format == "mxfp4":
        codes = rng.choice([*FP4, *np.negative(FP4)], (n, k))
    scales = 2.0 ** np.random.default_rng(3).integers(-3, 4, (n, k // 32))
    case = Product(isa, format, pack_codes(format, codes, scales), (n, k), 127 * np.eye(k, dtype=np.float32))
    assert np.array_equal(case.run(), 127 * (codes * scales.repeat(32, axis=1)).T)


@each_case
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_token_does_not_touch_the_others(isa, format, bad):
    data = get_format(format).pack(normal(1, 40, 64))
    x = normal(2, 11, 64)
    right = Product(isa, format, data, (40, 64), x).run().copy()
    x[6, 5] = bad
    others = np.arange(11) != 6
    y = Product(isa, format, data, (40, 64), x).run(good=others)
    assert np.array_equal(y[others], right[others])
    assert not np.isfinite(y[6]).any()


@pytest.mark.parametrize("isa", [*ISAS, *EMULATED])
@pytest.mark.parametrize("format", PACKED)
@pytest.mark.parametrize("t", [1, 3, 21, 85])
def test_gated_is_two_products_and_their_swiglu(isa, format, t):
    """Bit by bit, on any number of threads, whatever the sizes."""
    for n, k in [(16, 32), (90, 70), (523, 64)]:
        weights = [get_format(format).pack(normal(seed, n, k)) for seed in (1, 2)]
        bias, found = normal(4, 1, n), []
        for threads in (0, 1, 3):  # 0: the three rows by themselves
            rig = Rig(isa, t)
            m, ld, groups = rig.memory, pad(n), pad(k) // 32
            x, biased = m.padded(normal(3, t, k)), m.padded(bias)
            gate, up = (m.padded(np.zeros((t, n), np.float32)) for _ in range(2))
            records, out = m.bytes(record_bytes(t, k)), m.bytes(record_bytes(t, n))
            rig.row("quantize", x=x, ldx=x.shape[1], records=records, groups=groups)
            w, up_w = (m.array(data) for data in weights)
            rest = dict(x=records, own=0, blocks=pad(n, 16) // 16, groups=groups)
            rest["block_bytes"] = len(w) // rest["blocks"]
            if threads:
                rig.row(f"gated_{format}", w=w, up_w=up_w, gate=gate, up=up, ldy=ld, bias=biased, up_bias=None,
                        records=out, activation=0, **rest)  # fmt: skip
            else:
                for weight, y, b in ((w, gate, biased), (up_w, up, None)):
                    rig.row(f"matmul_{format}", w=weight, y=y, ldy=ld, rows=n, bias=b, accumulate=0, **rest)
                rig.row("activate", gate=gate, up=up, ldx=ld, y=gate, ldy=ld, n=n, activation=0, records=out,
                        groups=ld // 32)  # fmt: skip
            rig.run(max(threads, 1))
            found.append((gate, up, out))
        assert found[0][0][:, :n].any() and not found[0][0][:, n:].any()
        for other in found[1:]:
            assert all(np.array_equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("isa", [*ISAS, *EMULATED])
@pytest.mark.parametrize("format", PACKED)
def test_without_a_gate_one_product_is_activated(isa, format):
    """Bit by bit what the two rows by themselves give."""
    n, k, t = 90, 70, 3
    data, bias, found = get_format(format).pack(normal(1, n, k)), normal(4, 1, n), []
    for threads in (0, 1, 3):
        rig = Rig(isa, t)
        m, ld, groups = rig.memory, pad(n), pad(k) // 32
        x, y, b, w = m.padded(normal(3, t, k)), m.padded(np.zeros((t, n), np.float32)), m.padded(bias), m.array(data)
        records, out = m.bytes(record_bytes(t, k)), m.bytes(record_bytes(t, n))
        rig.row("quantize", x=x, ldx=x.shape[1], records=records, groups=groups)
        rest = dict(x=records, w=w, ldy=ld, bias=b, own=0, blocks=pad(n, 16) // 16, groups=groups)
        rest["block_bytes"] = len(w) // rest["blocks"]
        if threads:
            rig.row(f"gated_{format}", up_w=None, gate=y, up=None, up_bias=None, records=out, activation=4, **rest)
        else:
            rig.row(f"matmul_{format}", y=y, rows=n, accumulate=0, **rest)
            rig.row("activate", gate=y, up=None, ldx=ld, y=y, ldy=ld, n=n, activation=4, records=out, groups=ld // 32)
        rig.run(max(threads, 1))
        found.append((y, out))
    assert 0 < (found[0][0][:, :n] == 0).mean() < 1, "relu"
    for other in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("format", ["q4", "q8", "f32", "bf16"])
@pytest.mark.parametrize("t", [1, 4])
def test_threads_norm_for_themselves_in_small_steps(isa, format, t):
    """No barrier between a norm and the product; each thread reads what it wrote, and all get the same."""
    (n, k), found = (200, 70), []
    for threads, small in ((1, False), (1, True), (3, True), (7, True)):
        rig = Rig(isa, t, small=small)
        m, copies = rig.memory, threads if small else 1
        x, w = m.padded(normal(1, t, k)), m.array(get_format(format).pack(normal(2, n, k)))
        h = m.padded(np.zeros((copies * t, k), np.float32))
        records, y = m.bytes(record_bytes(copies * t, k)), m.padded(np.zeros((t, n), np.float32))
        ld, packed = x.shape[1], format in PACKED
        rig.row("rms_norm", barrier=LARGE, x=x, ldx=ld, weight=m.padded(normal(3, 1, k)), bias=None,
                accumulate=0, y=h, ldy=ld, n=k, eps=1e-5,
                records=records if packed else None, groups=ld // 32, own=1)  # fmt: skip
        blocks = pad(n, 16) // 16
        rest = dict(x=records, blocks=blocks, groups=ld // 32, block_bytes=len(w) // blocks) if packed else dict(
            x=h, ldx=ld, columns=k)  # fmt: skip
        rig.row(f"matmul_{format}", w=w, y=y, ldy=y.shape[1], rows=n, bias=None, accumulate=0, own=1, **rest)
        for _ in range(20):
            h[:], records[:], y[:] = 0, 0, 0
            rig.run(threads)
            found.append(y.copy())
            for copy in h.reshape(copies, t, ld):
                assert np.array_equal(copy, h[:t]) and copy[:, :k].any()
    assert all(np.array_equal(found[0], y) for y in found)
