"""Rotary positions, and what the cache then holds."""

import numpy as np
import pytest
from kernels.harness import ISAS, PAGE, PLAIN_HEADS, Cache, Rig, U, pad

from lepton_edge.kernels.ops import CACHES

each_isa = pytest.mark.parametrize("isa", ISAS)
each_kind = pytest.mark.parametrize("kind", CACHES)


def normal(seed, *shape, scale=1.0):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


class Rope:
    """A batch of tokens of some sequences, each with q [T, H, D], k and v [T, G, D], run through one rope row."""

    def __init__(self, isa, kind, heads, kv_heads, d, slots, positions, scale=1.0, layer=0):
        t, self.d, self.positions, self.slots = len(slots), d, positions, slots
        each = [heads, kv_heads, kv_heads]
        self.q, self.k, self.v = (normal((i, t, d), t, h, d, scale=scale) for i, h in enumerate(each))
        lengths = [max((p + 1 for s, p in zip(slots, positions, strict=True) if s == slot), default=1)
                   for slot in range(max(slots) + 1)]  # fmt: skip
        self.rig = rig = Rig(isa, t, slots=slots, positions=positions, scratch_bytes=5 * pad(d))
        self.cache = Cache(rig.memory, kind, kv_heads, d, lengths, layer)
        rig.pages = self.cache.table
        angle = np.arange(max(lengths))[:, None] * 100.0 ** (-np.arange(d // 2) / (d // 2))
        self.cos, self.sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        table = rig.memory.array(np.concatenate([self.cos, self.sin], axis=1))
        self.rows = [rig.memory.padded(a.reshape(t, -1)) for a in (self.q, self.k, self.v)]
        q, k, v = self.rows
        rig.row(f"rope_{kind}", q=q, ldq=q.shape[1], k=k, v=v, ldk=k.shape[1], heads=heads, kv_heads=kv_heads,
                head_dim=d, rope_dim=d, table=table, layer=layer, q_step=heads // kv_heads * d, k_step=d,
                **PLAIN_HEADS)  # fmt: skip

    def rotated(self, x):
        """(x turned, bound on the error of float32), float64 [T, heads, D]: two products and a sum."""
        cos, sin = (table.astype(np.float64)[self.positions][:, None] for table in (self.cos, self.sin))
        a, b = np.split(x.astype(np.float64), 2, axis=2)
        bound = 3 * U * np.tile(np.abs(a) + np.abs(b), 2)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=2), bound

    def check(self, threads=1):
        self.rig.run(threads)
        q, k, v = self.rows
        expected, bound = self.rotated(self.q)
        assert (np.abs(q[:, : self.q[0].size].reshape(self.q.shape) - expected) <= bound).all()
        assert np.array_equal(k[:, : self.k[0].size].reshape(self.k.shape), self.k)
        for row, part in ((q, self.q), (k, self.k), (v, self.v)):
            assert not row[:, part[0].size :].any()
        self.check_cache(*self.rotated(self.k))

    def check_cache(self, keys, bound):
        """What was stored is the keys, off by `bound`, and the values, each rounded as its kind does it."""
        written = {}
        for t, where in enumerate(zip(self.slots, self.positions, strict=True)):
            written[where] = t
        for slot, pages in enumerate(self.cache.pages):
            k, v = self.cache.read(slot, len(pages) * PAGE)
            for p in range(len(k)):
                t = written.get((slot, p))
                if t is None:
                    assert np.isnan(k[p]).all() and np.isnan(v[p]).all(), "wrote where nothing was to be stored"
                    continue
                assert not v[p, :, self.d :].any()
                for found, exact, off in ((k[p], keys[t], bound[t]), (v[p, :, : self.d], self.v[t], 0)):
                    assert (np.abs(found - self.limit(exact)) <= off + self.rounding(exact, off)).all()

    def limit(self, x):
        return np.clip(x, -65504, 65504) if self.cache.kind == "f16" else x

    def rounding(self, x, off):
        """How far the stored numbers of x [G, D] may be from it, where x itself is off by `off`.

        f16 keeps 11 bits, and 2^-25 of what lies below its smallest normal number.  q8 rounds to half a scale; the
        scale is 1/127 of the largest, as f16.  One that rounds down by 2^-11, or by 2^-25, leaves the largest above
        127.5 steps only where it is subnormal: there 127 steps lie up to 127 * 2^-25 below.  Quotients add 3 U of it.
        """
        if self.cache.kind == "f32":
            return 0
        if self.cache.kind == "f16":
            return np.abs(x) * 2.0**-11 + 2.0**-25
        wide = np.pad(np.abs(x) + off, ((0, 0), (0, -self.d % 32))).reshape(len(x), -1, 32)
        top = wide.max(axis=2).repeat(32, axis=1)[:, : self.d]
        step = top / 127 * (1 + 2.0**-11) + 2.0**-25
        return step / 2 + 3 * U * top + np.where(step < 2.0**-13, 127 * 2.0**-25, 0)


SHAPES = [(1, 1, 8), (4, 4, 24), (3, 1, 64), (14, 2, 64), (16, 2, 80), (9, 3, 128), (2, 1, 40), (1, 1, 2), (2, 2, 256)]


@each_isa
@each_kind
@pytest.mark.parametrize("heads,kv_heads,d", SHAPES)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_rope(isa, kind, heads, kv_heads, d, threads):
    """One sequence across the border of a page, and a second one in between."""
    positions = [125, 126, 0, 127, 1, 128, 129, 2]
    slots = [0, 0, 1, 0, 1, 0, 0, 1]
    Rope(isa, kind, heads, kv_heads, d, slots, positions, layer=4096).check(threads)


@each_isa
def test_keys_and_values_too_large_for_f16_are_saturated(isa):
    Rope(isa, "f16", 2, 1, 24, [0] * 5, [0, 1, 2, 3, 4], scale=1e5).check()


@each_isa
@pytest.mark.parametrize("kind", ["f16", "q8"])
@pytest.mark.parametrize("scale", [1e-6, 3e-6, 5e-6, 1e-5])
def test_small_keys_become_subnormal(isa, kind, scale):
    """Scales of q8 are then 0, 1 or 2 of the smallest half float: those that round down leave codes past 127."""
    Rope(isa, kind, 2, 1, 24, [0] * 5, [0, 1, 2, 3, 4], scale=scale).check()


@each_isa
@pytest.mark.parametrize("paired,center,weights", [(1, 0, None), (0, 0, "shared"), (1, 1, "own"), (0, 1, "biased")])
@pytest.mark.parametrize("d,dim", [(24, 24), (40, 10), (10, 0), (128, 32)])
def test_heads_are_normed_and_turned_in_part(isa, paired, center, weights, d, dim):
    """Grouped q, k and v in one activation; q against float64, and the key in an f32 cache."""
    t, kv_heads, group, eps = 5, 2, 3, 1e-3
    step = (group + 2) * d
    x = normal(1, t, kv_heads * step) + 0.5
    rig = Rig(isa, t, slots=[0] * t, positions=list(range(t)), scratch_bytes=5 * pad(d))
    cache = Cache(rig.memory, "f32", kv_heads, d, [t])
    rig.pages = cache.table
    angle = np.arange(t)[:, None] * 3.0 ** -np.arange(dim // 2)
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    table = rig.memory.array(np.concatenate([cos, sin], axis=1)) if dim else None
    shared, bias = weights != "own", weights == "biased"
    counts = (1 + bias,) * 2 if shared else (kv_heads * group, kv_heads)
    q_weight, k_weight = (normal(2 + i, count, d) for i, count in enumerate(counts))
    row = rig.memory.padded(x)
    norms = [rig.memory.padded(w.reshape(1, -1)) if weights else None for w in (q_weight, k_weight)]
    rig.row("rope_f32", q=row, ldq=row.shape[1], q_step=step, k=row[:, group * d :], v=row[:, (group + 1) * d :],
            ldk=row.shape[1], k_step=step, heads=kv_heads * group, kv_heads=kv_heads, head_dim=d, rope_dim=dim,
            paired=paired, table=table, layer=0, q_norm=norms[0], k_norm=norms[1], norm_eps=eps, norm_center=center,
            norm_step=0 if shared else d, norm_bias=d if bias else 0).run(2)  # fmt: skip
    heads = x.astype(np.float64).reshape(t, kv_heads, group + 2, d)

    def expected(head, weight, added):
        if weights:
            head = head - head.mean(-1, keepdims=True) * center
            head = head / np.sqrt((head**2).mean(-1, keepdims=True) + eps) * weight + added * bias
        y = head.copy()
        pairs = range(dim // 2)
        for i in pairs:
            a, b = (2 * i, 2 * i + 1) if paired else (i, i + dim // 2)
            y[:, a] = head[:, a] * cos[:, i] - head[:, b] * sin[:, i]
            y[:, b] = head[:, b] * cos[:, i] + head[:, a] * sin[:, i]
        return y

    found = row[:, : kv_heads * step].reshape(t, kv_heads, group + 2, d)
    keys, values = cache.read(0, t)
    # Mean and root: (d + 4) U of numbers whose largest is some 4 times their deviation; then six roundings.
    bound = 6 * (d + 10) * U * 4
    for g in range(kv_heads):
        for h in range(group):
            weight = q_weight[0 if shared else g * group + h]
            exact = expected(heads[:, g, h], weight, q_weight[-1])
            assert np.abs(found[:, g, h] - exact).max() <= bound * np.abs(weight).max()
        weight = k_weight[0 if shared else g]
        exact = expected(heads[:, g, group], weight, k_weight[-1])
        assert np.abs(keys[:, g] - exact).max() <= bound * np.abs(weight).max()
        assert np.array_equal(values[:, g, :d], heads[:, g, group + 1])
        assert np.array_equal(found[:, g, group:], x.reshape(t, kv_heads, group + 2, d)[:, g, group:])
