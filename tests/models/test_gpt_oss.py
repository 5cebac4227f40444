"""gpt-oss as it is published: experts in MXFP4, against the same experts as numbers; and what its config leaves out."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden.families import BY_NAME, Family, tensors, token_ids

from lepton_edge.checkpoint.safetensors import Entry, write_safetensors
from lepton_edge.checkpoint.store import Checkpoint
from lepton_edge.errors import CheckpointError, RequestError
from lepton_edge.models.registry import spec_from_config, spec_of
from lepton_edge.program.reference import Reference
from lepton_edge.quant.quantize import quantize_folder
from lepton_edge.runtime import Engine

SLACK, INT8 = 2.0, 0.0075  # see test_formats.py
PLAIN = BY_NAME["gpt_oss"].config | {"hidden_size": 64, "intermediate_size": 32}
FAMILY = Family("gpt_oss_mxfp4", PLAIN)
QUANTIZED = PLAIN | {"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}}
VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def entry(name: str, values: np.ndarray) -> Entry:
    kind = {"float32": "F32", "uint8": "U8"}[values.dtype.name]
    return Entry(name, kind, values.shape, lambda: iter([np.ascontiguousarray(values).reshape(-1).view(np.uint8)]))


def write(path: Path, mxfp4: bool, scales: int = 122) -> Path:
    """A folder whose experts are random codes times 2^(scales - 127) or twice that, as MXFP4 or as their values."""
    rng, entries = np.random.default_rng(3), []
    for name, values in tensors(FAMILY):
        if not name.endswith("_proj"):
            entries.append(entry(name, values))
            continue
        experts, inputs, outputs = values.shape
        codes = rng.integers(0, 16, (experts, outputs, inputs), np.uint8)
        scale = rng.integers(scales, scales + 2, (experts, outputs, inputs // 32), np.uint8)
        if mxfp4:
            blocks = (codes[:, :, 0::2] | codes[:, :, 1::2] << 4).reshape(*scale.shape, 16)
            entries += [entry(f"{name}_blocks", blocks), entry(f"{name}_scales", scale)]
        else:
            wide = np.ldexp(VALUES[codes], scale.repeat(32, axis=2).astype(int) - 127).astype(np.float32)
            entries.append(entry(name, wide.swapaxes(1, 2)))
    path.mkdir()
    (path / "config.json").write_text(json.dumps(QUANTIZED if mxfp4 else PLAIN))
    write_safetensors(path / "model.safetensors", entries)
    return path


@contextmanager
def loaded(folder: Path, **options: Any) -> Iterator[tuple[Checkpoint, Engine]]:
    with Checkpoint.open(folder) as checkpoint:
        engine = Engine.load(checkpoint, spec_of(checkpoint), **{"threads": 1, "kv_dtype": "f32"} | options)
        yield checkpoint, engine
        engine.close()


def feed(engine: Engine | Reference, chunk: int = 40) -> np.ndarray:
    ids, slot, rows = token_ids(FAMILY), engine.open(), []
    for start in range(0, len(ids), chunk):
        part = ids[start : start + chunk]
        rows.append(engine.forward(part, [slot] * len(part), range(start, start + len(part)), range(len(part))))
    return np.concatenate(rows)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(b.astype(np.float64)))


def test_mxfp4_experts_are_their_values(tmp_path: Path) -> None:
    """In f32 bit by bit the same model; as they are, what the reference makes of them; packed, the same bytes."""
    plain, folder = write(tmp_path / "plain", False), write(tmp_path / "mxfp4", True)
    with loaded(plain) as (_, engine):
        expected = feed(engine)
    with loaded(folder, format="f32") as (_, engine):
        np.testing.assert_array_equal(feed(engine), expected)
    bound = SLACK * np.sqrt(4 * 3 + 1) * INT8
    with loaded(folder) as (checkpoint, engine):
        assert {weight.format for weight in engine.program.weights.values()} == {"f32", "mxfp4"}
        whole = feed(engine)
        assert relative(whole, feed(Reference(engine.program, engine.spec))) <= bound
        assert relative(feed(engine, 1), whole) <= bound
        name = engine.spec.names.name("experts_in", 1)
        data = checkpoint.weight(name).data.copy()
    report = quantize_folder(folder, tmp_path / "packed", "q8", matrices=engine.spec.matrices(),
                             stored=engine.spec.stored())  # fmt: skip
    assert {row.format for row in report.rows if "experts" in row.tensor and row.weights > 1000} == {"mxfp4"}
    assert max(row.error for row in report.rows if row.format == "mxfp4") == 0
    with loaded(tmp_path / "packed") as (checkpoint, engine):
        assert "quantization_config" not in checkpoint.config and checkpoint.config["lepton"] == {"format": "q8"}
        np.testing.assert_array_equal(checkpoint.weight(name).data, data)
        assert {weight.format for weight in engine.program.weights.values()} == {"f32", "q8", "mxfp4"}
        assert all(np.shares_memory(weight.data, checkpoint.bytes(weight.name.partition("[")[0]))
                   for weight in engine.program.weights.values())  # fmt: skip
        assert relative(feed(engine), feed(Reference(engine.program, engine.spec))) <= bound
    with loaded(folder, format="q8") as (_, engine):
        assert {weight.format for weight in engine.program.weights.values()} == {"f32", "q8", "mxfp4"}


def test_other_formats_for_mxfp4(tmp_path: Path) -> None:
    folder = write(tmp_path / "mxfp4", True)
    spec = spec_from_config(QUANTIZED, "config.json")
    names = dict(matrices=spec.matrices(), stored=spec.stored())
    with pytest.raises(RequestError, match=r"bf16 for model.layers.0.mlp.experts.down_proj, which is MXFP4"):
        quantize_folder(folder, tmp_path / "no", "q4", keep=["experts=bf16"], **names)
    report = quantize_folder(folder, tmp_path / "q8", "bf16", keep=["experts.down=q8"], **names)
    formats = {row.tensor.rpartition(".")[2]: (row.format, row.error) for row in report.rows}
    assert formats["gate_up_proj"] == ("mxfp4", 0) and formats["down_proj"][0] == "q8"
    assert 0 < formats["down_proj"][1] < 0.006


def test_scales_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    with Checkpoint.open(write(tmp_path / "nan", True, scales=254)) as checkpoint:
        spec = spec_of(checkpoint)
        with pytest.raises(CheckpointError, match=r"tensor 'model.layers.0.mlp.experts.gate_up_proj_scales': .* NaN"):
            Engine.load(checkpoint, spec, threads=1)


def test_what_a_config_leaves_out() -> None:
    """As transformers' GptOssConfig has it."""
    sizes = {name: PLAIN[name] for name in ("architectures", "vocab_size", "hidden_size", "num_hidden_layers")}
    heads = {"num_attention_heads": 64, "max_position_embeddings": 131072}
    spec = spec_from_config(sizes | heads, "config.json")
    assert [attention.window for attention in spec.attentions] == [128, None, 128]
    attention, experts = spec.attentions[0], spec.layers[0].feed_forward
    assert attention.rope is not None and (attention.head_dim, attention.kv_heads) == (64, 8)
    assert (attention.rope.theta, attention.rope.scaling.factor, attention.rope.scaling.truncate) == (150000, 32, False)
    assert (experts.count, experts.top_k, experts.width) == (128, 4, 2880) and experts.bias and not spec.tied
    assert attention.qkv_bias and attention.o_bias and attention.sinks and spec.norm.eps == 1e-5
