"""Rows of an embedding table, whatever its format: exact."""

import numpy as np
import pytest
from kernels.harness import ISAS, Rig, pad

from lepton_edge.kernels.ops import BY_ID, BY_POSITION
from lepton_edge.quant.formats import FORMATS, get_format

PLAIN = dict(scale=1.0, by=BY_ID, offset=0, accumulate=0)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("columns", [1, 8, 31, 32, 33, 70, 128])
def test_rows_are_copied_exactly(isa, format, columns):
    kind, vocab = get_format(format), 37
    w = np.random.default_rng(columns).standard_normal((vocab, columns)).astype(np.float32)
    data = kind.pack(w)
    ids = [0, 36, 15, 16, 36, 17, 31, 32, 5]
    blocks, groups = (pad(vocab, 16) // 16, pad(columns) // 32) if kind.packed else (1, 0)
    for threads in (1, 3):
        rig = Rig(isa, len(ids), ids=ids)
        y = rig.memory.array(np.full((len(ids), pad(columns)), np.nan, np.float32))
        rig.row(f"embed_{format}", w=rig.memory.array(data), y=y, ldy=y.shape[1], n=columns, groups=groups,
                block_bytes=len(data) // blocks if kind.packed else 0, **PLAIN)  # fmt: skip
        rig.run(threads)
        assert np.array_equal(y[:, :columns], kind.unpack(data, vocab, columns)[ids])
        assert not y[:, columns:].any(), "the padding must be zero, whatever a token before left there"


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("format", ["f16", "bf16"])
def test_odd_numbers(isa, format):
    """Subnormals, limits, signed zeros and infinities widen as NumPy widens them."""
    kind = get_format(format)
    bits = np.array([0, 0x8000, 1, 0x8001, 0x3FF, 0x400, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7F7F, 0x7F80], np.uint16)
    rig = Rig(isa, 1)
    y = rig.memory.bytes(128).view(np.float32)[None]
    rig.row(f"embed_{format}", w=rig.memory.array(bits), y=y, ldy=y.shape[1], n=len(bits), groups=0, block_bytes=0,
            **PLAIN)  # fmt: skip
    rig.run()
    expected = kind.unpack(bits.view(np.uint8), 1, len(bits))[0]
    assert np.array_equal(y[0, : len(bits)], expected, equal_nan=True)
    assert np.array_equal(np.signbit(y[0, : len(bits)]), np.signbit(expected))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("format", FORMATS)
def test_rows_by_position_are_scaled_and_added(isa, format):
    """One rounding for the product and one for the sum."""
    kind, (rows, n) = get_format(format), (37, 70)
    data = kind.pack(np.random.default_rng(1).standard_normal((rows, n)).astype(np.float32))
    blocks, groups = (pad(rows, 16) // 16, pad(n) // 32) if kind.packed else (1, 0)
    w, positions = kind.unpack(data, rows, n).astype(np.float64), [0, 34, 5, 6]
    for accumulate in (0, 1):
        rig = Rig(isa, 4, ids=[9, 9, 9, 9], positions=positions, scratch_bytes=pad(n) * 4)
        old = np.random.default_rng(2).standard_normal((4, n)).astype(np.float32)
        y = rig.memory.padded(old)
        rig.row(f"embed_{format}", w=rig.memory.array(data), y=y, ldy=y.shape[1], n=n, groups=groups, scale=1.7,
                block_bytes=len(data) // blocks if kind.packed else 0, by=BY_POSITION, offset=2,
                accumulate=accumulate).run(1 + 2 * accumulate)  # fmt: skip
        product = w[np.array(positions) + 2] * np.float64(np.float32(1.7))
        expected = product + (old if accumulate else 0)
        assert (np.abs(y[:, :n] - expected) <= 2.0**-23 * (np.abs(product) + np.abs(expected))).all()
        assert not y[:, n:].any()
