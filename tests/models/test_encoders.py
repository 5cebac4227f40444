"""Every encoder and head against transformers: golden outputs of packed sequences, and packed weights.

Tolerances: f32 is what the project promises, 1e-5 relative; packed weights are held against the reference executor on
the same weights, with the bound of test_every_family.py, and against the golden outputs with what these small models,
whose attention is uneven, were seen to need (0.07 and 0.67, in ModernBERT of four layers).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden.encoders import (
    BUCKETS,
    BY_NAME,
    ENCODERS,
    NOMIC,
    Encoder,
    checksum,
    load,
    segments,
    sequences,
    write_folder,
)

from lepton_edge.checkpoint.store import Checkpoint
from lepton_edge.errors import ConfigError, UnsupportedModelError
from lepton_edge.models.attention import Disentangled, Distances
from lepton_edge.models.registry import spec_from_config, spec_of
from lepton_edge.program.reference import Reference
from lepton_edge.quant.quantize import quantize_folder
from lepton_edge.runtime import Engine

TOLERANCE, SLACK, INT8 = 1e-5, 2.0, 0.0075
NEAR = {"q8": 0.1, "q4": 0.8}
GOLDEN = cache(load)

each_encoder = pytest.mark.parametrize("encoder", ENCODERS, ids=lambda encoder: encoder.name)


@contextmanager
def loaded(folder: Path, threads: int = 1) -> Iterator[Engine]:
    with Checkpoint.open(folder) as checkpoint:
        engine = Engine.load(checkpoint, spec_of(checkpoint), threads=threads, kv_dtype="f32")
        try:
            yield engine
        finally:
            engine.close()


def outputs(engine: Engine, encoder: Encoder) -> np.ndarray:
    """Of all sequences in one call, one below the other."""
    found = engine.encode(sequences(encoder), segments(encoder), hidden=engine.spec.head is None)
    return np.concatenate(found) if encoder.each else np.stack(found)


def alone(engine: Engine | Reference, encoder: Encoder) -> np.ndarray:
    """The same, a sequence at a time."""
    found, kinds, hidden = [], segments(encoder), engine.spec.head is None
    for i, ids in enumerate(sequences(encoder)):
        if isinstance(engine, Engine):
            found += engine.encode([ids], None if kinds is None else [kinds[i]], hidden)
        else:
            found.append(engine.encode(ids, None if kinds is None else kinds[i], hidden))
    return np.concatenate(found) if encoder.each else np.stack(found)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(b.astype(np.float64)))


@each_encoder
def test_outputs_are_those_of_transformers(encoder: Encoder, tmp_path: Path) -> None:
    """Of sequences of different lengths in one call, and of each alone."""
    golden, (noise, check) = GOLDEN()[encoder.name], GOLDEN()[f"{encoder.name} about"]
    assert int(check) == checksum(encoder), "the encoder changed: run tools/make_golden.py encoders"
    assert noise < 3e-6
    with loaded(write_folder(encoder, tmp_path / "model")) as engine:
        assert relative(outputs(engine, encoder), golden) <= TOLERANCE
        assert relative(alone(engine, encoder), golden) <= TOLERANCE


@each_encoder
@pytest.mark.parametrize("format", ["q8", "q4"])
def test_packed(encoder: Encoder, format: str, tmp_path: Path) -> None:
    """A packed folder gives what its own weights say."""
    folder = write_folder(encoder, tmp_path / "model")
    with Checkpoint.open(folder) as checkpoint:
        spec = spec_of(checkpoint)
        quantize_folder(folder, tmp_path / "packed", format, matrices=spec.matrices(), stored=spec.stored())
    with loaded(tmp_path / "packed") as engine:
        found = outputs(engine, encoder)
        expected = alone(Reference(engine.program, engine.spec), encoder)
    assert relative(found, GOLDEN()[encoder.name]) <= NEAR[format]
    assert relative(found, expected) <= SLACK * np.sqrt(4 * len(spec.layers) + 1) * INT8


def test_buckets_are_those_of_transformers() -> None:
    """DeBERTa's, where the last distance gives an exact logarithm, and those of T5 and MPNet."""
    far = np.arange(-1100, 1101)
    for buckets, reach in BUCKETS:
        np.testing.assert_array_equal(Disentangled(buckets, reach).index(far), GOLDEN()[f"buckets {buckets} {reach}"])
    for buckets in (32, 64):
        np.testing.assert_array_equal(Distances(buckets).bucket(far), GOLDEN()[f"buckets {buckets}"])


@pytest.mark.parametrize(
    ("name", "change", "error", "words"),
    [
        ("bert_model", dict(position_embedding_type="relative_key"), UnsupportedModelError, "position_embedding_type"),
        ("bert_model", dict(is_decoder=True), UnsupportedModelError, "is_decoder"),
        ("bert_model", dict(hidden_size=49), ConfigError, "hidden_size"),
        ("bert_model", dict(num_attention_heads=1, hidden_size=1 << 20), ConfigError, "hidden_size"),
        ("bert_classes", dict(id2label={"0": "a", "2": "b"}), ConfigError, "id2label"),
        ("bert_mask", dict(hidden_act="mish"), UnsupportedModelError, "hidden_act"),
        ("roberta_model", dict(pad_token_id=-1), ConfigError, "pad_token_id"),
        ("roberta_model", dict(max_position_embeddings=2), ConfigError, "max_position_embeddings"),
        ("distilbert_model", dict(dim="48"), ConfigError, "dim"),
        ("electra_model", dict(embedding_size=0), ConfigError, "embedding_size"),
        ("mpnet_model", dict(relative_attention_num_buckets=64), UnsupportedModelError, "num_buckets"),
        ("albert_model", dict(num_hidden_groups=2), UnsupportedModelError, "num_hidden_groups"),
        ("albert_model", dict(inner_group_num=2), UnsupportedModelError, "inner_group_num"),
        ("modernbert_model", dict(rope_scaling={"rope_type": "linear"}), UnsupportedModelError, "rope_scaling"),
        ("modernbert_model", dict(layer_types=["chunked"] * 4), UnsupportedModelError, "layer_types"),
        ("modernbert_classes", dict(classifier_pooling="max"), UnsupportedModelError, "classifier_pooling"),
        ("modernbert_mask", dict(classifier_bias="yes"), ConfigError, "classifier_bias"),
        ("nomicbert_model", dict(num_experts=8), UnsupportedModelError, "num_experts"),
        ("nomicbert_model", dict(qkv_proj_bias=True), UnsupportedModelError, "qkv_proj_bias"),
        ("nomicbert_model", dict(rotary_emb_fraction=0.5), UnsupportedModelError, "rotary_emb_fraction"),
        ("nomicbert_model", dict(activation_function="geglu"), UnsupportedModelError, "activation_function"),
        ("nomicbert_model", dict(head_dim=8), UnsupportedModelError, "head_dim"),
        ("debertav2_model", dict(conv_kernel_size=3), UnsupportedModelError, "conv_kernel_size"),
        ("debertav2_model", dict(share_att_key=False), UnsupportedModelError, "share_att_key"),
        ("debertav2_model", dict(embedding_size=24), UnsupportedModelError, "embedding_size"),
        ("debertav2_model", dict(position_buckets=1), ConfigError, "position_buckets"),
        ("debertav2_model", dict(pos_att_type=7), ConfigError, "pos_att_type"),
        ("debertav2_model", dict(attention_head_size=8), UnsupportedModelError, "attention_head_size"),
        ("debertav2_model", dict(position_buckets=-1, max_relative_positions=9999), ConfigError, "position_buckets"),
        ("debertav2_mask", dict(legacy=1), ConfigError, "legacy"),
    ],
)
def test_what_is_lacking_is_refused(name: str, change: dict[str, Any], error: type[Exception], words: str) -> None:
    """By the name of the field, with the file."""
    with pytest.raises(error, match=f"^here/config.json: .*{words}"):
        spec_from_config(BY_NAME[name].config | change, "here/config.json")


def test_the_config_of_nomic_embed_text() -> None:
    """It has GPT-2's names; all that transformers' own config says of the same sizes is there."""
    found = spec_from_config(NOMIC, "config.json")
    like = {
        "architectures": ["NomicBertModel"], "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
        "num_hidden_layers": 2, "max_position_embeddings": 256, "vocab_size": 41,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    }  # fmt: skip
    assert found == spec_from_config(like, "config.json")


@pytest.mark.parametrize("name", ["bert_classes", "modernbert_mean", "debertav2_mask", "mpnet_tokens"])
def test_threads_do_not_matter(name: str, tmp_path: Path) -> None:
    """Bit by bit what one thread gives."""
    folder, found = write_folder(BY_NAME[name], tmp_path / name), []
    for threads in (1, 3):
        with loaded(folder, threads) as engine:
            found.append(outputs(engine, BY_NAME[name]))
    np.testing.assert_array_equal(*found)
