"""Rows of an embedding table, whatever its format: exact."""

import numpy as np
import pytest
from kernels.harness import ISAS, Rig, pad

from lepton_edge.quant.formats import FORMATS, get_format


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
                block_bytes=len(data) // blocks if kind.packed else 0)  # fmt: skip
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
    rig.row(f"embed_{format}", w=rig.memory.array(bits), y=y, ldy=y.shape[1], n=len(bits), groups=0, block_bytes=0)
    rig.run()
    expected = kind.unpack(bits.view(np.uint8), 1, len(bits))[0]
    assert np.array_equal(y[0, : len(bits)], expected, equal_nan=True)
    assert np.array_equal(np.signbit(y[0, : len(bits)]), np.signbit(expected))
