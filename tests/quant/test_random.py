"""Random checkpoints: what benchmarks run on."""

import numpy as np
import pytest

from lepton_edge.errors import CheckpointError, RequestError
from lepton_edge.quant.formats import FORMATS
from lepton_edge.quant.random import RandomCheckpoint

SHAPES = {"embed": (200, 96), "small": (7, 33), "norm.weight": (96,), "q.bias": (96,)}


@pytest.mark.parametrize("name", FORMATS)
def test_matrices_are_whole_valid_and_of_unit_gain(name: str) -> None:
    checkpoint = RandomCheckpoint(SHAPES, name, seed=3)
    for tensor in ("embed", "small"):
        weight = checkpoint.weight(tensor)
        rows, columns = SHAPES[tensor]
        assert (weight.format, weight.shape) == (name, (rows, columns))
        assert weight.data.nbytes == FORMATS[name].nbytes(rows, columns)
        assert weight.data.ctypes.data % 64 == 0
        values = weight.to_f32()
        assert 0.8 < np.std(values) * np.sqrt(columns) < 1.2
        assert np.array_equal(values, RandomCheckpoint(SHAPES, name, seed=3).weight(tensor).to_f32())
        assert not np.array_equal(values, RandomCheckpoint(SHAPES, name, seed=4).weight(tensor).to_f32())
    embed = checkpoint.weight("embed").to_f32()
    assert np.array_equal(embed[:64], embed[64:128])
    assert np.array_equal(embed[:8], embed[192:])


def test_vectors() -> None:
    checkpoint = RandomCheckpoint(SHAPES, "q4")
    assert np.array_equal(checkpoint.weight("norm.weight").to_f32(), np.ones(96, np.float32))
    assert np.array_equal(checkpoint.weight("q.bias").to_f32(), np.zeros(96, np.float32))


def test_what_is_not_there_is_named() -> None:
    checkpoint = RandomCheckpoint(SHAPES, "q8")
    checkpoint.require({"embed": (200, 96)})
    with pytest.raises(CheckpointError, match="embed, other"):
        checkpoint.require({"embed": (200, 97), "other": (1,), "norm.weight": (96,)})
    with pytest.raises(CheckpointError, match="other"):
        checkpoint.weight("other")
    with pytest.raises(RequestError, match="q5"):
        RandomCheckpoint(SHAPES, "q5")
