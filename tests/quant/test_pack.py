"""Converting one tensor: the same bytes however it is cut into chunks, and errors that name it."""

import numpy as np
import pytest

from lepton_edge.checkpoint import Weight
from lepton_edge.errors import CheckpointError
from lepton_edge.quant import pack
from lepton_edge.quant.formats import FORMATS


def weight(format: str, shape: tuple[int, int] = (70, 100)) -> Weight:
    w = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    return Weight("w", format, shape, FORMATS[format].pack(w))


@pytest.mark.parametrize("chunk", [1, 1700, 1 << 20])
@pytest.mark.parametrize("target", list(FORMATS))
@pytest.mark.parametrize("source", list(FORMATS))
def test_any_format_to_any_other(source: str, target: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "CHUNK", chunk)
    before = weight(source)
    after = pack.pack_weight(before, target, "model.safetensors")
    assert (after.name, after.format, after.shape) == ("w", target, (70, 100))
    np.testing.assert_array_equal(after.data, FORMATS[target].pack(before.to_f32()))
    assert after.data.ctypes.data % 64 == 0


def test_map_rows_gives_every_row_once_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "CHUNK", 1700)
    before = weight("f32")
    chunks = list(pack.map_rows(before, 16, np.copy, ""))
    assert [len(chunk) for chunk in chunks] == [16, 16, 16, 16, 6]
    np.testing.assert_array_equal(np.concatenate(chunks), before.to_f32())


def test_a_weight_that_does_not_fit_names_the_tensor() -> None:
    w = np.full((20, 40), 1e6, np.float32)
    with pytest.raises(CheckpointError, match=r"a/b\.safetensors: tensor 'w': weights that are NaN, infinite or too"):
        pack.pack_weight(Weight("w", "f32", w.shape, FORMATS["f32"].pack(w)), "f16", "a/b.safetensors")
