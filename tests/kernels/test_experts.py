"""Mixtures of experts: routing against its definition, products bit by bit against the dense ones, and the sum."""

import numpy as np
import pytest
from kernels.harness import ISAS, Rig, U, pad, record_bytes

from lepton_edge.kernels.layout import MATMUL_BYTES, PAIR, route_scratch
from lepton_edge.kernels.ops import LARGE
from lepton_edge.program.mixture import choose, sort_pairs
from lepton_edge.quant.formats import FORMATS, get_format

PACKED = ("q4", "q8", "mxfp4")
each_isa = pytest.mark.parametrize("isa", ISAS)
each_format = pytest.mark.parametrize("format", FORMATS)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


class Routed:
    """A rig whose first row routes logits [T, E]; shares, places and order have a copy for each of `copies` threads."""

    def __init__(self, isa, logits, top_k, *, normalise=1, small=False, copies=1):
        t, experts = logits.shape
        self.rig = rig = Rig(isa, t, small=small, scratch_bytes=max(route_scratch(experts), MATMUL_BYTES))
        self.t, self.top_k, self.pairs, self.copies = t, top_k, t * top_k, copies
        m, pairs = rig.memory, t * top_k * copies
        self.shares, self.places = (m.bytes(4 * pairs).view(kind) for kind in (np.float32, np.int32))
        self.order = m.bytes(PAIR * pairs).view(np.int32).reshape(-1, 4)
        x = m.padded(logits)
        rig.row("route", barrier=LARGE, x=x, ldx=x.shape[1], experts=experts, top_k=top_k, normalise=normalise,
                shares=self.shares, places=self.places, order=self.order)  # fmt: skip

    def dispatch(self, x, *, sorted=0, records=False):
        """Append the row that lays x [T or pairs, K] out; -> its y [pairs, ld], or its records."""
        m, copies = self.rig.memory, 1 if sorted else self.copies
        x = np.tile(x, (copies, 1))
        padded = m.padded(x)
        ld = padded.shape[1]
        out = m.bytes(copies * record_bytes(self.pairs, ld) if records else copies * self.pairs * ld * 4)
        self.rig.row("dispatch", barrier=LARGE, x=padded, ldx=ld, own=1 - sorted, order=self.order, top_k=self.top_k,
                     sorted=sorted, y=None if records else out, records=out if records else None)  # fmt: skip
        return out if records else out.view(np.float32).reshape(-1, ld)

    def segments(self):
        """(expert, first place, stop) of every expert that has tokens."""
        return sorted({(e, first, stop) for _, e, first, stop in self.order[: self.pairs].tolist()})


@each_isa
@pytest.mark.parametrize("experts,top_k", [(1, 1), (4, 4), (8, 2), (60, 4), (64, 8), (130, 6)])
def test_route(isa, experts, top_k):
    """Ties too: half of the logits are equal."""
    for t, normalise in [(1, 0), (2, 1), (21, 0), (64, 1)]:
        logits = normal(t, t, experts) * 3
        logits[:, ::2] = np.rint(logits[:, ::2] / 3)
        case = Routed(isa, logits, top_k, normalise=normalise)
        case.rig.run(threads=1 + t % 3)
        chosen, shares = choose(logits.astype(np.float64), top_k, bool(normalise))
        places, order = sort_pairs(chosen)
        assert np.array_equal(case.order, order) and np.array_equal(case.places, places.reshape(-1))
        # exp is right to 2e-7 and its argument to U |logit - largest| < 30 U, for the share and the sum; the sum has up
        # to nine additions in a lane and four of lanes, and there is one division.
        assert np.allclose(case.shares, shares.reshape(-1), rtol=2 * (2e-7 + 30 * U) + 15 * U, atol=0)


@each_isa
def test_bad_logits_choose_experts_all_the_same(isa):
    logits = normal(1, 9, 40)
    logits[2], logits[4, 7], logits[6, ::3], logits[7] = np.nan, np.nan, np.inf, -np.inf
    right = Routed(isa, normal(1, 9, 40), 5)
    right.rig.run()
    case = Routed(isa, logits, 5)
    case.rig.run()
    good = [0, 1, 3, 5, 8]
    chosen = np.empty(45, int)
    chosen[case.order[:, 0]] = case.order[:, 1]
    assert all(len(set(row)) == 5 and min(row) >= 0 and max(row) < 40 for row in chosen.reshape(9, 5).tolist())
    assert np.array_equal(case.shares.reshape(9, 5)[good], right.shares.reshape(9, 5)[good])


@each_isa
def test_dispatch(isa):
    """Rows in the order of the experts; records as `quantize` makes them of each expert's tokens alone."""
    for t, k in [(1, 64), (13, 70)]:
        x = normal(t, t, k)
        case = Routed(isa, normal(k, t, 5), 3)
        y, records = case.dispatch(x), case.dispatch(x, records=True)
        again = case.dispatch(normal(9, 3 * t, k), sorted=1, records=True)
        case.rig.run(threads=3)
        tokens = case.order[:, 0] // 3
        assert np.array_equal(y[:, :k], x[tokens]) and not y[:, k:].any()
        size = record_bytes(1, k)
        for _, first, stop in case.segments():
            for found, rows in ((records, x[tokens[first:stop]]), (again, normal(9, 3 * t, k)[first:stop])):
                assert np.array_equal(found[first * size : stop * size], quantized(isa, rows))


def quantized(isa, x):
    rig = Rig(isa, len(x))
    x, records = rig.memory.padded(x), rig.memory.bytes(record_bytes(*x.shape))
    rig.row("quantize", x=x, ldx=x.shape[1], records=records, groups=x.shape[1] // 32).run()
    return records


def shape_of(format, n, k, data):
    """The fields that say how a weight [n, k] lies."""
    if format in PACKED:
        blocks = pad(n, 16) // 16
        return dict(blocks=blocks, groups=pad(k) // 32, block_bytes=len(data) // blocks)
    return dict(ldx=pad(k), columns=k)


def alone(isa, format, data, shape, x, bias):
    """What the dense product makes of x."""
    (n, k), t = shape, len(x)
    rig = Rig(isa, t)
    m = rig.memory
    y = m.padded(np.zeros((t, n), np.float32))
    x = m.array(quantized(isa, x)) if format in PACKED else m.padded(x)
    rig.row(f"matmul_{format}", x=x, w=m.array(data), y=y, ldy=y.shape[1], rows=n, bias=m.padded(bias[None]),
            accumulate=0, own=0, **shape_of(format, n, k, data))  # fmt: skip
    rig.run()
    return y


def table(memory, weights, used):
    """Addresses of the experts' weights; 0 for those that nobody may read."""
    held = [memory.array(data) if e in used else None for e, data in enumerate(weights)]
    return held, memory.array(np.array([0 if w is None else w.ctypes.data for w in held], np.int64))


@each_isa
@each_format
@pytest.mark.parametrize("n,k", [(1, 33), (67, 100), (208, 64)])
def test_products_are_the_dense_ones(isa, format, n, k):
    """Bit by bit, on any number of threads; an expert without tokens is not read."""
    experts, top_k = 6, 2
    weights = [get_format(format).pack(normal(e, n, k)) for e in range(experts)]
    bias = normal(7, experts, n)
    for t, threads in [(1, 1), (1, 3), (3, 2), (25, 3), (200, 2)]:
        x = normal(t, t, k)
        logits = normal(n + t, t, experts)
        logits[:, 4] = -9
        case = Routed(isa, logits, top_k)
        m = case.rig.memory
        rows = case.dispatch(x, records=format in PACKED)
        held, addresses = table(m, weights, set(choose(logits, top_k, True)[0].reshape(-1).tolist()))
        y = m.padded(np.full((t * top_k, n), 7, np.float32))
        case.rig.row(f"matmul_{format}", x=rows, w=addresses, y=y, ldy=y.shape[1], rows=n, bias=m.padded(bias), own=1,
                     accumulate=0, order=case.order, top_k=top_k, **shape_of(format, n, k, weights[0]))  # fmt: skip
        case.rig.run(threads)
        tokens = case.order[:, 0] // top_k
        for e, first, stop in case.segments():
            assert held[e] is not None
            expected = alone(isa, format, weights[e], (n, k), x[tokens[first:stop]], bias[e])
            assert np.array_equal(y[first:stop], expected)


@each_isa
@pytest.mark.parametrize("format", PACKED)
@pytest.mark.parametrize("n,k", [(16, 32), (90, 70), (523, 64)])
def test_gated_products_are_the_dense_ones(isa, format, n, k):
    experts, top_k = 5, 2
    gates, ups = ([get_format(format).pack(normal(e + s, n, k)) for e in range(experts)] for s in (0, 50))
    bias, up_bias, ld = normal(8, experts, n), normal(9, experts, n), pad(n)
    for t, threads in [(1, 2), (23, 3), (200, 2)]:
        x = normal(t, t, k)
        case = Routed(isa, normal(n, t, experts), top_k)
        m, pairs = case.rig.memory, t * top_k
        rows = case.dispatch(x, records=True)
        gate, up = (m.padded(np.zeros((pairs, n), np.float32)) for _ in range(2))
        out = m.bytes(record_bytes(pairs, n))
        used = set(choose(normal(n, t, experts), top_k, True)[0].reshape(-1).tolist())
        held = [table(m, weights, used) for weights in (gates, ups)]
        shape = shape_of(format, n, k, gates[0])
        case.rig.row(f"gated_{format}", x=rows, w=held[0][1], up_w=held[1][1], gate=gate, up=up, ldy=ld,
                     bias=m.padded(bias), up_bias=m.padded(up_bias), activation=6, records=out, own=1, order=case.order,
                     top_k=top_k, **shape)  # fmt: skip
        case.rig.run(threads)
        tokens, size = case.order[:, 0] // top_k, record_bytes(1, n)
        for e, first, stop in case.segments():
            rig = Rig(isa, stop - first)
            m, here = rig.memory, slice(first, stop)
            y, other = (m.padded(np.zeros((stop - first, n), np.float32)) for _ in range(2))
            records = m.bytes(record_bytes(stop - first, n))
            rig.row(f"gated_{format}", x=m.array(quantized(isa, x[tokens[here]])), w=m.array(gates[e]),
                    up_w=m.array(ups[e]), gate=y, up=other, ldy=ld, bias=m.padded(bias[e : e + 1]),
                    up_bias=m.padded(up_bias[e : e + 1]), activation=6, records=records, own=0, **shape)  # fmt: skip
            rig.run()
            assert np.array_equal(gate[here], y) and np.array_equal(up[here], other)
            assert np.array_equal(out[first * size : stop * size], records)


@each_isa
@pytest.mark.parametrize("format", ["q4", "f32"])
@pytest.mark.parametrize("threads", [1, 3, 7])
def test_small_steps(isa, format, threads):
    """No barrier before the product: each thread reads what it routed and laid out itself, and all get the same."""
    t, n, k, experts, top_k, found = 3, 200, 70, 8, 2, []
    weights = [get_format(format).pack(normal(e, n, k)) for e in range(experts)]
    for small in (False, True):
        case = Routed(isa, normal(1, t, experts), top_k, small=small, copies=threads if small else 1)
        m, rows = case.rig.memory, case.dispatch(normal(2, t, k), records=format in PACKED)
        held, addresses = table(m, weights, range(experts))
        y, total = m.padded(np.zeros((t * top_k, n), np.float32)), m.padded(np.zeros((t, n), np.float32))
        case.rig.row(f"matmul_{format}", x=rows, w=addresses, y=y, ldy=y.shape[1], rows=n, bias=None, order=case.order,
                     top_k=top_k, own=1, accumulate=0, **shape_of(format, n, k, weights[0]))  # fmt: skip
        case.rig.row("combine", x=y, ldx=y.shape[1], shares=case.shares, places=case.places, top_k=top_k, y=total,
                     accumulate=0, shared=None, shared_gate=None, ldg=0)  # fmt: skip
        for _ in range(20):
            case.order[:], case.places[:], rows[:], y[:], total[:] = 0, 0, 0, 0, 0
            case.rig.run(threads)
            found.append((y.copy(), total.copy()))
            for copy in case.order.reshape(case.copies, -1, 4):
                assert np.array_equal(copy, case.order[: case.pairs])
        assert len(held) == experts
    assert found[0][1].any()
    assert all(np.array_equal(a, b) for other in found for a, b in zip(found[0], other, strict=True))


@each_isa
@pytest.mark.parametrize("shared", [False, True])
def test_combine(isa, shared):
    t, n, top_k = 9, 70, 3
    case = Routed(isa, normal(1, t, 7), top_k, normalise=0)
    m = case.rig.memory
    x, old, more, gate = normal(2, t * top_k, n), normal(3, t, n), normal(4, t, n), normal(5, t, 1) * 5
    y = m.padded(old)
    extra = dict(shared=m.padded(more), shared_gate=m.padded(gate), ldg=32) if shared else dict(
        shared=None, shared_gate=None, ldg=0)  # fmt: skip
    case.rig.row("combine", x=m.padded(x), ldx=y.shape[1], shares=case.shares, places=case.places, top_k=top_k, y=y,
                 accumulate=1, **extra)  # fmt: skip
    case.rig.run(threads=2)
    shares = case.shares.reshape(t, top_k, 1).astype(np.float64)
    terms = shares * x[case.places].reshape(t, top_k, n)
    if shared:
        terms = np.concatenate([terms, (more / (1 + np.exp(-gate.astype(np.float64))))[:, None]], axis=1)
    expected = old + terms.sum(1)
    # As many roundings as terms and one more; the shared term has a sigmoid of relative error 2e-7 + 4 U.
    bound = (top_k + 3) * U * (np.abs(old) + np.abs(terms).sum(1)) + shared * (2e-7 + 4 * U) * np.abs(more)
    assert (np.abs(y[:, :n] - expected) <= bound).all() and not y[:, n:].any()
