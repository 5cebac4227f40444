"""LSTM and GRU models against torch.nn: golden numbers, batches, packed weights; their configs, field by field.

f32: what the project promises, 1e-5 relative.  Packed weights are held against the reference executor on the same
weights: where an activation is next to a tie its code may round otherwise, and rows of a q4 embedding often are; 1/127
of the largest of 32 for one of them in each of up to 8 products that follow each other.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden.rnn import CONFIGS, LENGTHS, PAIR, checksum, load, sequences, write_folder, written

from lepton_edge.checkpoint.store import Checkpoint
from lepton_edge.errors import ConfigError, LeptonError, RequestError, UnsupportedModelError
from lepton_edge.models.registry import spec_from_config, spec_of
from lepton_edge.models.spec import ModelSpec
from lepton_edge.program import build_program
from lepton_edge.program.reference import Reference
from lepton_edge.quant.quantize import quantize_folder
from lepton_edge.runtime import Engine

GOLDEN = load()
PAIRS = [name for name in CONFIGS if name.endswith("_pair")]
LANGUAGE = [name for name in CONFIGS if CONFIGS[name]["architectures"] == ["RnnForCausalLM"]]
WHOLE = [name for name in CONFIGS if name not in PAIRS + LANGUAGE]
WHERE = "/models/some/config.json"
each_name = pytest.mark.parametrize("name", CONFIGS)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(b.astype(np.float64)))


@pytest.fixture
def checkpoint(name: str, tmp_path: Path) -> Iterator[Checkpoint]:
    with Checkpoint.open(write_folder(name, tmp_path / name)) as opened:
        yield opened


def rows_of(runner: Any, spec: ModelSpec, name: str) -> np.ndarray:
    """All that the golden run has, a sequence after the other; `runner`: an engine or a reference without a target."""
    found = []
    for ids in sequences(name):
        if spec.causal:
            slot = runner.open()
            found.append(runner.forward(ids, [slot] * len(ids), range(len(ids)), range(len(ids))))
        elif spec.target is not None:
            (state,), ids = runner.last_states([ids]), written(name)
            slot = runner.decoder.open(state)
            found.append(runner.decoder.forward(ids, [slot] * len(ids), range(1, len(ids) + 1), range(len(ids))))
            runner.decoder.close_slot(slot)
        elif isinstance(runner, Reference):
            found.append(np.atleast_2d(runner.encode(ids, hidden=spec.head is None)))
        else:
            found.append(np.atleast_2d(runner.encode([ids], hidden=spec.head is None)[0]))
    return np.concatenate(found)


@each_name
def test_engine_gives_what_torch_gives(name: str, checkpoint: Checkpoint) -> None:
    noise, check = GOLDEN[f"{name} about"]
    assert int(check) == checksum(name), "the models changed: run tools/make_rnn_golden.py"
    assert noise < 1e-6
    spec = spec_of(checkpoint)
    engine = Engine.load(checkpoint, spec, threads=1)
    assert relative(rows_of(engine, spec, name), GOLDEN[name]) <= 1e-5
    engine.close()


@pytest.mark.parametrize("name", LANGUAGE + WHOLE)
def test_reference_gives_what_torch_gives(name: str, checkpoint: Checkpoint) -> None:
    """The noise is the distance of torch's float32 from its float64 run; the stored rows are rounded too."""
    spec = spec_of(checkpoint)
    run = Reference(build_program(spec, checkpoint.weight, "f32", spec.context), spec)
    assert relative(rows_of(run, spec, name), GOLDEN[name]) <= 2 * GOLDEN[f"{name} about"][0] + 1e-7


@each_name
@pytest.mark.parametrize(("format", "near"), [("q8", 0.06), ("q4", 0.5)])
def test_packed(name: str, checkpoint: Checkpoint, format: str, near: float, tmp_path: Path) -> None:
    """A packed folder runs without copies of its matrices, recurrent ones too, and as its own weights say."""
    spec = spec_of(checkpoint)
    quantize_folder(checkpoint.folder, tmp_path / "packed", format, matrices=spec.matrices(), stored=spec.stored())
    with Checkpoint.open(tmp_path / "packed") as packed:
        engine = Engine.load(packed, spec_of(packed), threads=1)
        for part in (engine, engine.decoder):
            for weight in part.program.weights.values() if part else ():
                assert weight.format == format
                assert np.shares_memory(weight.data, packed.bytes(weight.name)), f"{weight.name} was copied"
        found = rows_of(engine, spec, name)
        assert relative(found, GOLDEN[name]) <= near
        if spec.target is None:
            assert relative(found, rows_of(Reference(engine.program, spec), spec, name)) <= 8 / 127 / 2
        engine.close()


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("format", ["f32", "q8"])
def test_batches_and_threads_change_no_bit(name: str, checkpoint: Checkpoint, format: str) -> None:
    spec = spec_of(checkpoint)
    hidden = spec.head is None
    alone = Engine.load(checkpoint, spec, threads=1, format=format)
    expected = [alone.encode([ids], hidden=hidden)[0] for ids in sequences(name)]
    for threads in (1, 3):
        engine = Engine.load(checkpoint, spec, threads=threads, format=format)
        for a, b in zip(engine.encode(sequences(name), hidden=hidden), expected, strict=True):
            np.testing.assert_array_equal(a, b)
        states = engine.encode(sequences(name), hidden=True)
        assert [part.shape for part in states] == [(n, spec.hidden) for n in LENGTHS]
        engine.close()


@pytest.mark.parametrize("name", PAIRS)
def test_a_decoder_begins_with_states_of_the_right_size(name: str, checkpoint: Checkpoint) -> None:
    """Several texts at once, each with the state that it has alone."""
    engine = Engine.load(checkpoint, spec_of(checkpoint), threads=2)
    decoder = engine.decoder
    assert decoder is not None
    together = engine.last_states(sequences(name))
    before = [state.copy() for state in together]
    for ids, state in zip(sequences(name), together, strict=True):
        np.testing.assert_array_equal(engine.last_states([ids])[0], state)
        np.testing.assert_array_equal(together, before)  # they are the caller's, whatever else is computed
    for wrong in (together[0][:-4], together[0].view(np.float32)):
        with pytest.raises(RequestError, match=f"expected uint8 \\[{decoder.program.state_bytes}\\]"):
            decoder.open(wrong)
    assert engine.cache_bytes == len(LENGTHS) * engine.program.state_bytes  # spare ones, for the next texts
    engine.close()


def test_what_has_no_states_leaves_none(tmp_path: Path) -> None:
    with Checkpoint.open(write_folder("lstm_language", tmp_path / "model")) as checkpoint:
        engine = Engine.load(checkpoint, spec_of(checkpoint), threads=1)
        with pytest.raises(RequestError, match="this model is a decoder"):
            engine.last_states([[1, 2]])
        engine.close()


# -- configs ----------------------------------------------------------------------------------------------------------

SIZES = ("vocab_size", "embedding_size", "hidden_size", "num_layers", "max_length")
OF_PAIRS = ("target_vocab_size", "target_embedding_size", "decoder_start_token_id", "eos_token_id", "max_new_tokens")
FLAGS = ("bidirectional", "bias", "head_bias")


def read(name: str, **changes: Any) -> ModelSpec:
    return spec_from_config(copy.deepcopy(CONFIGS[name]) | changes, WHERE)


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "8", [8], 1 << 40])
@pytest.mark.parametrize("field", SIZES + OF_PAIRS)
def test_a_wrong_size_is_named(field: str, value: Any) -> None:
    if value == 0 and value is not False and field in ("decoder_start_token_id", "eos_token_id"):
        return
    with pytest.raises(ConfigError) as raised:
        read("gru_pair", **{field: value})
    assert str(raised.value).startswith(f"{WHERE}: {field} is ")


@pytest.mark.parametrize("value", [0, 1, "true", []])
@pytest.mark.parametrize("field", FLAGS)
def test_a_wrong_flag_is_named(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{field} is "):
        read("lstm_classes", **{field: value})


@pytest.mark.parametrize(("name", "changes", "kind", "says"), [
    ("lstm_tokens", {"cell": "rnn"}, UnsupportedModelError, "cell 'rnn' is not supported; supported: lstm or gru"),
    ("lstm_tokens", {"cell": None}, ConfigError, "cell is None; expected a value"),
    ("lstm_tokens", {"cell": 3}, ConfigError, "cell is 3; expected a string"),
    ("lstm_language", {"proj_size": 8}, UnsupportedModelError, "proj_size 8 is not supported"),
    ("lstm_language", {"bidirectional": True}, UnsupportedModelError, "bidirectional True is not supported"),
    ("gru_pair", {"bidirectional": True}, UnsupportedModelError, "bidirectional True is not supported"),
    ("lstm_classes", {"pooling": "max"}, UnsupportedModelError, "pooling 'max' is not supported; supported: last"),
    ("lstm_language", {"tie_word_embeddings": True}, ConfigError, "tie_word_embeddings is True; expected false"),
    ("gru_pair", {"id2label": {"0": "a"}}, ConfigError, "expected the names of all 23 tokens"),
    ("gru_pair", {"eos_token_id": 23}, ConfigError, "eos_token_id is 23; expected a whole number from 0 to 22"),
    ("gru_pair", {"eos_token_id": None}, ConfigError, "eos_token_id is None; expected a value"),
    ("gru_last", {"quantization_config": {"bits": 4}}, UnsupportedModelError, "quantization_config"),
])  # fmt: skip
def test_what_is_wrong_or_lacking_is_named(
    name: str, changes: dict[str, Any], kind: type[LeptonError], says: str
) -> None:  # fmt: skip
    with pytest.raises(kind) as raised:
        read(name, **changes)
    assert says in str(raised.value)


def test_defaults() -> None:
    least = {"cell": "gru", "vocab_size": 9, "hidden_size": 6}
    spec = spec_from_config({"architectures": ["RnnModel"], **least}, WHERE)
    assert (len(spec.layers), spec.embed_width, spec.hidden, spec.context) == (1, 0, 6, 8192)
    assert spec.tensors() == {
        "embedding.weight": (9, 6), "rnn.weight_ih_l0": (18, 6), "rnn.bias_ih_l0": (18,), "rnn.weight_hh_l0": (18, 6),
        "rnn.bias_hh_l0": (18,),
    }  # fmt: skip
    spec = spec_from_config({"architectures": ["RnnForSeq2Seq"], **least, **PAIR}, WHERE)
    assert spec.target is not None and spec.target.spec.vocab == 23 and spec.target.labels == ()
    assert spec.tensors()["decoder.embedding.weight"] == (23, 6) and spec.tensors()["head.weight"] == (23, 6)
    spec = spec_from_config({"architectures": ["RnnForSequenceClassification"], **least}, WHERE)
    assert spec.head is not None and spec.head.pool == "last" and spec.head.labels == ("LABEL_0", "LABEL_1")
