"""Hidden states and attentions of every architecture against transformers, and against the reference executor."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from golden import encoders, families, recipe, rnn, seq2seq, traces
from golden.families import BY_NAME

from lepton_edge.checkpoint.store import Checkpoint
from lepton_edge.errors import Cancelled, RequestError
from lepton_edge.kernels.machine import available, instruction_set
from lepton_edge.models.registry import spec_of
from lepton_edge.program.reference import Reference, attended
from lepton_edge.quant.quantize import quantize_folder
from lepton_edge.runtime import Engine
from lepton_edge.runtime import trace as module
from lepton_edge.runtime.trace import Trace, Watch, trace

TOLERANCE = 1e-5  # what the project promises of outputs; the golden numbers are sums over float32 arrays
EXACT = next(name for name in available() if not instruction_set(name).bf16_pairs)
GOLDEN = cache(traces.load)
SOME = BY_NAME["qwen3_gqa"]


@contextmanager
def loaded(folder: Path) -> Iterator[Engine]:
    with Checkpoint.open(folder) as checkpoint:
        engine = Engine.load(checkpoint, spec_of(checkpoint), threads=2, kv_dtype="f32", isa=EXACT)
        try:
            yield engine
        finally:
            engine.close()


def traced(engine: Engine, ids: np.ndarray, kinds: np.ndarray | None = None, target: np.ndarray | None = None) -> Trace:
    return trace(engine, ids.astype(np.int32), kinds, target, None, True, True)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(b.astype(np.float64)))


def check(name: str, found: Trace, last: bool = True) -> None:
    """Every state and every layer's attention by itself.  last: whether transformers' last states are ours."""
    golden = GOLDEN()
    expected, states = golden[f"{name} states"], traces.states(found.hidden_states)
    assert states.shape == expected.shape
    if name.startswith(traces.BEHIND):
        expected, states = np.delete(expected, -2, axis=0), states[1:]
    for i in range(len(states) - (not last)):
        assert relative(states[i], expected[i]) <= TOLERANCE, f"state {i}"
    if f"{name} attentions" in golden:
        check_attentions(name, found.attentions)


def check_attentions(name: str, found: tuple[np.ndarray, ...]) -> None:
    expected = np.split(GOLDEN()[f"{name} attentions"], len(found))
    for i, (shares, wanted) in enumerate(zip(found, expected, strict=True)):
        assert shares.dtype == np.float32
        assert relative(traces.attentions([shares]), wanted) <= TOLERANCE, f"attention {i}"


@pytest.mark.parametrize("model", traces.BODIES, ids=lambda model: model.name)
def test_encoders(model: encoders.Encoder, tmp_path: Path) -> None:
    kinds = encoders.segments(model)
    with loaded(encoders.write_folder(model, tmp_path / "model")) as engine:
        check(model.name, traced(engine, encoders.sequences(model)[-1], None if kinds is None else kinds[-1]))


@pytest.mark.parametrize("model", traces.DECODERS, ids=lambda model: model.name)
def test_decoders(model: families.Family | recipe.Recipe, tmp_path: Path) -> None:
    """At once, and in steps of three tokens, the last one of one."""
    if isinstance(model, families.Family):
        folder, ids = families.write_folder(model, tmp_path / "model"), families.token_ids(model)
    else:
        folder, ids = recipe.write_folder(model.name, tmp_path / "model"), recipe.token_ids(model)
    with loaded(folder) as engine:
        for most in (engine.max_wanted, 3):
            engine.max_wanted = most
            check(model.name, traced(engine, ids), last=model.name not in traces.PROJECTED)
        assert not engine._pages.lengths, "every slot was given back"


@pytest.mark.parametrize("model", traces.PAIRS, ids=lambda model: model.name)
def test_encoder_decoders(model: seq2seq.Pair, tmp_path: Path) -> None:
    with loaded(seq2seq.write_folder(model, tmp_path / "model")) as engine:
        source = seq2seq.sources(model)[0]
        found, alone = traced(engine, source, target=seq2seq.target(model).astype(np.int32)), traced(engine, source)
        assert not engine._pages.lengths, "every slot was given back"
    check(model.name, found)
    check_attentions(f"{model.name} cross", found.cross_attentions)
    assert found.encoder is not None and alone.encoder is None and not alone.cross_attentions
    for encoder in (found.encoder, alone):
        check(f"{model.name} encoder", encoder)


@pytest.mark.parametrize("name", rnn.CONFIGS)
def test_recurrent_stacks(name: str, tmp_path: Path) -> None:
    """The embedding, of its own width; the layers as the reference executor runs them."""
    ids = rnn.sequences(name)[2]
    with loaded(rnn.write_folder(name, tmp_path / "model")) as engine:
        found, program = traced(engine, ids), engine.program
        embedding = rnn.tensors(name)[engine.spec.names.name("embed")]
        reference = Reference(program, engine.spec)
    np.testing.assert_array_equal(found.hidden_states[0], embedding[ids])
    slot = reference.open()
    for state, stop in zip(found.hidden_states[1:], [*program.layer_rows[1:], program.state_rows], strict=True):
        reference.run_until(stop, ids, [slot] * len(ids), range(len(ids)), range(len(ids)))
        reference.states.clear()
        assert relative(state, reference.buffer(program.states if stop == program.state_rows else "x")) <= TOLERANCE
    assert not found.attentions


@pytest.mark.parametrize("format", ["q8", "q4"])
def test_packed_weights(format: str, tmp_path: Path) -> None:
    """What the reference executor sees of the same weights; tolerances as in test_every_family.py."""
    folder, ids = families.write_folder(SOME, tmp_path / "model"), families.token_ids(SOME)
    with Checkpoint.open(folder) as checkpoint:
        spec = spec_of(checkpoint)
        quantize_folder(folder, tmp_path / "packed", format, matrices=spec.matrices(), stored=spec.stored())
    with loaded(tmp_path / "packed") as engine:
        found, reference = traced(engine, ids), Reference(engine.program, engine.spec)
    slot, seen = reference.open(), []
    for at, row in enumerate(reference.program.rows):
        if row.op.startswith("attention_"):
            reference.run_until(at, ids, [slot] * len(ids), range(len(ids)), [])
            seen.append(np.zeros_like(found.attentions[0]))
            for t, (first, shares) in enumerate(attended(reference, row.values)):
                seen[-1][:, t, first : first + shares.shape[2]] = shares.reshape(-1, shares.shape[2])
    bound = 2 * np.sqrt(4 * len(spec.layers) + 1) * 0.0075
    assert [relative(a, b) <= bound for a, b in zip(found.attentions, seen, strict=True)] == [True] * len(spec.layers)
    np.testing.assert_allclose([shares.sum(axis=2) for shares in found.attentions], 1, rtol=1e-5)


def test_what_is_not_asked_for_is_not_there(tmp_path: Path) -> None:
    folder, ids = families.write_folder(SOME, tmp_path / "model"), families.token_ids(SOME)
    with loaded(folder) as engine:
        states = trace(engine, ids.astype(np.int32), None, None, None, True, False)
        shares = trace(engine, ids.astype(np.int32), None, None, None, False, True)
        assert states.hidden_states and not states.attentions and shares.attentions and not shares.hidden_states
        after = engine.forward(ids, [engine.open()] * len(ids), range(len(ids)), range(len(ids)), hidden=True)
    np.testing.assert_array_equal(after, states.hidden_states[-1])


def test_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before anything is computed, with the numbers."""
    monkeypatch.setattr(module, "MOST", 1000)
    with loaded(families.write_folder(SOME, tmp_path / "model")) as engine:
        with pytest.raises(RequestError, match=r"9 tokens .* GB; expected at most"):
            traced(engine, np.arange(3, 12))
        assert engine._watch is None


def test_cancel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two looks; the engine is as it was."""
    with loaded(families.write_folder(SOME, tmp_path / "model")) as engine:
        look = Watch._look
        monkeypatch.setattr(Watch, "_look", lambda *given: (engine.cancel(), look(*given)))
        with pytest.raises(Cancelled):
            traced(engine, families.token_ids(SOME))
        monkeypatch.undo()
        assert engine._watch is None and not engine._pages.lengths
        check(SOME.name, traced(engine, families.token_ids(SOME)))
