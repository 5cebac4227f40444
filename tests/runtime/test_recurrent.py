"""Models with a state beside each sequence: the same numbers however a sequence is cut, batched or shared out."""

import threading
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from engines import feed, reference, relative, tokens
from golden import recurrent, rnn
from golden.recipe import write_folder
from kernels.harness import ISAS

from lepton_edge.checkpoint.store import Checkpoint
from lepton_edge.errors import Cancelled, RequestError
from lepton_edge.models.registry import spec_of
from lepton_edge.runtime import Engine

NAMES = (*recurrent.CONFIGS, "lstm_language", "gru_language", "gru_plain")
FORMATS = ("f32", "q4")
each_name = pytest.mark.parametrize("name", NAMES)
each_format = pytest.mark.parametrize("format", FORMATS)
HYBRID = ("lfm2",)  # families with attention: its masked lanes may differ in the last bit of a float


@cache
def checkpoint(name: str) -> Checkpoint:
    """Open from a folder that is gone: nothing is read from it again, and files stay as they are while mapped."""
    folder = TemporaryDirectory()
    write = rnn.write_folder if name in rnn.CONFIGS else write_folder
    opened = Checkpoint.open(write(name, Path(folder.name) / name))
    opened.__dict__["keep"] = folder
    return opened


def load(name: str, format: str = "f32", **options) -> Engine:
    source = checkpoint(name)
    return Engine.load(source, spec_of(source), **{"format": format, "threads": 1, "kv_dtype": "f32"} | options)


def same(name: str, a: np.ndarray, b: np.ndarray) -> bool:
    """Bit for bit; within 1e-6 where there is attention."""
    return relative(a, b) <= 1e-6 if name.startswith(HYBRID) else np.array_equal(a, b)


@each_name
@each_format
@pytest.mark.parametrize("isa", ISAS)
def test_engine_and_reference(name: str, format: str, isa: str) -> None:
    """f32: what the project promises. q4: codes of the activations may round differently, see `engines.tolerance`."""
    engine = load(name, format, isa=isa)
    run, ids = reference(engine), tokens(40, engine.spec)
    slot, other = engine.open(), run.open()
    for part in (ids[:23], ids[23:24], ids[24:]):
        found, expected = feed(engine, slot, part), feed(run, other, part)
        assert relative(found, expected) <= (1e-5 if format == "f32" else 0.05)


@each_name
@each_format
def test_prefill_and_steps(name: str, format: str) -> None:
    engine = load(name, format)
    ids = tokens(70, engine.spec)
    whole = feed(engine, engine.open(), ids)
    for chunk in (1, 2, 9, 33):
        assert same(name, feed(engine, engine.open(), ids, chunk), whole), chunk


@each_name
@each_format
def test_threads(name: str, format: str) -> None:
    """Bit by bit, prompts and small steps."""
    alone = load(name, format)
    ids = tokens(60, alone.spec)
    expected = feed(alone, alone.open(), ids), feed(alone, alone.open(), ids[:9], 1)
    for threads in (2, 3):
        engine = load(name, format, threads=threads)
        assert np.array_equal(feed(engine, engine.open(), ids), expected[0])
        assert np.array_equal(feed(engine, engine.open(), ids[:9], 1), expected[1])
        engine.close()


@each_name
@each_format
def test_sequences_in_one_batch(name: str, format: str) -> None:
    """Three sequences of different lengths, whose tokens lie in turns; and single tokens of each, a small step."""
    engine, lengths = load(name, format), (31, 17, 24)
    ids = [tokens(length, engine.spec, seed) for seed, length in enumerate(lengths)]
    alone = [feed(engine, engine.open(), each) for each in ids]
    slots = [engine.open() for _ in ids]
    order = sorted((p * 7 % 5 + p // 5 * 5, i) for i, length in enumerate(lengths) for p in range(length - 1))
    turns = [i for _, i in order]
    positions = [turns[:k].count(i) for k, i in enumerate(turns)]
    pairs = list(zip(turns, positions, strict=True)) + [(i, length - 1) for i, length in enumerate(lengths)]
    for part in (pairs[:25], pairs[25:-3], pairs[-3:]):
        logits = engine.forward([ids[i][p] for i, p in part], [slots[i] for i, _ in part], [p for _, p in part],
                                range(len(part)))  # fmt: skip
        for row, (i, p) in zip(logits, part, strict=True):
            assert same(name, row[None], alone[i][p][None]), (i, p)


@each_name
def test_more_tokens_than_a_step_takes(name: str) -> None:
    engine = load(name, threads=2)
    ids = tokens(min(700, engine.context), engine.spec)
    found = feed(engine, engine.open(), ids, wanted=[len(ids) - 1])
    assert same(name, found, feed(engine, engine.open(), ids, 50)[-1:])


@each_name
def test_a_sequence_begins_anew(name: str) -> None:
    """After `truncate(0)`, and in a slot that another sequence had; nowhere else can it be cut."""
    engine = load(name)
    ids = tokens(20, engine.spec)
    slot = engine.open()
    first = feed(engine, slot, ids)
    assert not engine.can_truncate
    for length in (1, 19):
        with pytest.raises(RequestError, match=f"to {length}: this model keeps a state"):
            engine.truncate(slot, length)
    engine.truncate(slot, 20)
    assert engine.length(slot) == 20
    engine.truncate(slot, 0)
    assert np.array_equal(feed(engine, slot, ids), first)
    engine.close_slot(slot)
    assert engine.open() == slot and np.array_equal(feed(engine, slot, ids), first)


@each_name
def test_memory_of_sequences(name: str) -> None:
    """A slot costs nothing before its first step, one state from then on, and its memory goes to the next sequence."""
    engine = load(name)
    per_sequence = engine.program.state_bytes + engine.program.page_bytes
    ids, slots = tokens(5, engine.spec), [engine.open() for _ in range(10)]
    assert engine.cache_bytes == 0 and per_sequence > 0
    for slot in slots[:3]:
        feed(engine, slot, ids)
    assert engine.cache_bytes == 3 * per_sequence
    engine.close_slot(slots[1])
    feed(engine, slots[4], ids)
    assert engine.cache_bytes == 3 * per_sequence
    assert (engine.program.page_bytes == 0) == (not engine.spec.attentions)


@pytest.mark.parametrize("name", ["mamba_plain", "lstm_language"])
def test_a_cancelled_step_leaves_sequences_empty(name: str) -> None:
    """Some layers' states may have seen the tokens, and others not."""
    engine = load(name)
    ids, slot = tokens(512, engine.spec), engine.open()
    feed(engine, slot, ids[:3])
    done = threading.Event()

    def cancel() -> None:
        while not done.is_set():
            engine.cancel()

    other = threading.Thread(target=cancel)
    other.start()
    try:
        with pytest.raises(Cancelled):
            for _ in range(1000):
                feed(engine, slot, ids, wanted=[])
    finally:
        done.set()
        other.join()
    assert engine.length(slot) == 0
    assert np.array_equal(feed(engine, slot, ids[:20]), feed(engine, engine.open(), ids[:20]))
