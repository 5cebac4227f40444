"""The random GGUF files hold every tensor of the shape, all matrices in the one format, the same bytes each time."""

import math

import pytest

from bench.engines import gguf_name
from lepton_edge.cli.shapes import SHAPES
from lepton_edge.models.registry import spec_from_config

gguf = pytest.importorskip("gguf", reason="needs the package gguf (the extra `bench`)")

from bench import gguf_random  # noqa: E402  (it imports gguf)

QWEN2 = spec_from_config(SHAPES["qwen2.5-0.5b"], "qwen2.5-0.5b")
SMALL = spec_from_config(
    SHAPES["qwen2.5-0.5b"]
    | dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, vocab_size=40)
    | dict(num_attention_heads=2, num_key_value_heads=1),
    "small",
)


@pytest.mark.parametrize(("format", "kind"), [("q4", "Q4_0"), ("q8", "Q8_0"), ("bf16", "BF16")])
def test_file_is_the_shape_in_one_format(tmp_path, format, kind):
    path = tmp_path / gguf_name("small", format)
    gguf_random.write(SMALL, format, path)
    reader = gguf.GGUFReader(path)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    shapes = gguf_random.tensors(SMALL)
    assert len(shapes) == 1 + 2 * (7 + 3 + 2) + 1
    assert {name: tuple(tensor.shape[::-1].tolist()) for name, tensor in tensors.items()} == shapes
    for name, shape in shapes.items():
        tensor = tensors[name]
        if len(shape) == 1:
            assert tensor.tensor_type.name == "F32"
            assert tensor.data.tolist() == [0.0 if name.endswith("bias") else 1.0] * shape[0]
            continue
        assert tensor.tensor_type.name == kind
        weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert weights.shape == shape
        # Codes are uniform and scales vary by a half: the spread is sqrt(13/12) of 1/sqrt(columns), within sampling.
        # bf16 is uniform with a spread of 1/sqrt(columns).
        assert 0.9 < weights.std() * shape[1] ** 0.5 < 1.2
    assert reader.fields["tokenizer.ggml.model"].contents() == "no_vocab"
    assert [path.name for path in tmp_path.iterdir()] == [gguf_name("small", format)]


def test_same_shape_gives_the_same_bytes(tmp_path):
    gguf_random.write(SMALL, "q4", tmp_path / "a.gguf")
    gguf_random.write(SMALL, "q4", tmp_path / "b.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_ragged_rows_are_refused():
    with pytest.raises(ValueError, match="multiple of 32"):
        gguf_random.row_bytes(576 + 1, "q4")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("smollm2-135m", 134_515_008), ("qwen2.5-0.5b", 494_032_768), ("llama-3.2-1b", 1_235_814_400)],
)
def test_parameter_counts_are_the_published_ones(name, parameters):
    shapes = gguf_random.tensors(spec_from_config(SHAPES[name], name)).values()
    assert sum(map(math.prod, shapes)) == parameters
