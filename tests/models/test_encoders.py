"""Every encoder and head against transformers: golden outputs of packed sequences, and packed weights.

Tolerances: f32 is what the project promises, 1e-5 relative; packed weights are held against the reference executor on
the same weights, with the bound of test_every_family.py.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from golden.encoders import BY_NAME, ENCODERS, Encoder, checksum, load, segments, sequences, write_folder

from lepton_edge.checkpoint.store import Checkpoint
from lepton_edge.models.registry import spec_of
from lepton_edge.program.reference import Reference
from lepton_edge.quant.quantize import quantize_folder
from lepton_edge.runtime import Engine

TOLERANCE, SLACK, INT8 = 1e-5, 2.0, 0.0075
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
    print(encoder.name, format, relative(found, expected), relative(found, GOLDEN()[encoder.name]))
    assert relative(found, expected) <= SLACK * np.sqrt(4 * len(spec.layers) + 1) * INT8


@pytest.mark.parametrize("name", ["bert_classes"])
def test_threads_do_not_matter(name: str, tmp_path: Path) -> None:
    """Bit by bit what one thread gives."""
    folder, found = write_folder(BY_NAME[name], tmp_path / name), []
    for threads in (1, 3):
        with loaded(folder, threads) as engine:
            found.append(outputs(engine, BY_NAME[name]))
    np.testing.assert_array_equal(*found)
