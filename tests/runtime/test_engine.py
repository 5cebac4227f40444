"""The engine's arguments, its state and what can go wrong, but for threads (see test_pool.py)."""

from dataclasses import replace

import numpy as np
import pytest
from engines import FORMATS, ODD, PLAIN, WINDOWS, Weights, feed, load, relative, tokens
from golden.recipe import BY_NAME, token_ids, write_folder

from lepton_edge.checkpoint.store import Checkpoint, Weight
from lepton_edge.errors import CheckpointError, ContextLengthError, MachineError, RequestError
from lepton_edge.models.registry import spec_of
from lepton_edge.quant.formats import get_format
from lepton_edge.runtime import Engine


def test_a_refused_batch_changes_nothing():
    engine = load(PLAIN)
    slot, ids = engine.open(), tokens(10, PLAIN)
    whole = feed(engine, engine.open(), ids)
    feed(engine, slot, ids[:5])
    for bad in (([96], [slot], [5], [0]), ([1], [slot], [4], [0]), ([1], [7], [0], [0]), ([1], [slot], [5], [1]),
                ([1.5], [slot], [5], [0])):  # fmt: skip
        with pytest.raises(RequestError):
            engine.forward(*bad)
    assert engine.length(slot) == 5
    assert np.array_equal(feed(engine, slot, ids[5:]), whole[5:])


def test_the_context_is_a_limit_and_can_be_filled():
    engine = load(PLAIN, context=130)
    slot, ids = engine.open(), tokens(131, PLAIN)
    with pytest.raises(ContextLengthError, match=f"sequence {slot} would have 131 tokens; the context has 130"):
        feed(engine, slot, ids)
    assert engine.length(slot) == 0 and engine.context == 130
    full = load(PLAIN)
    assert np.array_equal(feed(engine, slot, ids[:130]), feed(full, full.open(), ids[:130]))
    with pytest.raises(ContextLengthError):
        feed(engine, slot, ids[:1])


def test_slots():
    engine = load(PLAIN)
    slots = [engine.open() for _ in range(256)]
    assert sorted(slots) == list(range(256))
    with pytest.raises(RequestError, match="all 256 sequences are in use"):
        engine.open()
    engine.close_slot(17)
    assert engine.open() == 17
    for call in (engine.length, engine.close_slot, lambda slot: engine.truncate(slot, 0)):
        with pytest.raises(RequestError, match="sequence 300 is not open"):
            call(300)
    for length in (-1, 1):
        with pytest.raises(RequestError, match=f"cannot truncate to {length}"):
            engine.truncate(17, length)


def test_what_an_engine_says_of_itself():
    engine = load(PLAIN, "bf16", threads=2, context=64, kv_dtype="f32")
    assert (engine.vocab, engine.context, engine.threads, engine.format) == (96, 64, 2, "bf16")
    assert engine.program.kv_dtype == "f32" and engine.cache_bytes == 0
    assert engine.weight_bytes == sum(2 * np.prod(s) for s in PLAIN.tensors().values() if len(s) == 2)
    engine.forward([1], [engine.open()], [0], [])
    assert engine.cache_bytes == engine.program.page_bytes


@pytest.mark.parametrize("format,kv_dtype", [("f32", "f32"), ("bf16", "f16"), ("q4", "f16")])
def test_the_cache_is_as_precise_as_the_weights(format, kv_dtype):
    assert load(PLAIN, format).program.kv_dtype == kv_dtype


@pytest.mark.parametrize(
    "options,error,message",
    [
        ({"threads": 0}, RequestError, "threads=0: expected an integer from 1 to 256"),
        ({"threads": 257}, RequestError, "threads=257"),
        ({"threads": 2.0}, RequestError, "threads=2.0"),
        ({"threads": True}, RequestError, "threads=True"),
        ({"context": 0}, RequestError, "context=0: expected an integer from 1 to 256"),
        ({"context": 257}, RequestError, "context=257"),
        ({"kv_dtype": "int8"}, RequestError, "kv_dtype='int8': expected one of f16, f32, q8"),
        ({"isa": "avx1024"}, MachineError,
         "avx1024.*known are amx, avx512bf16, avx512, avxvnni, avx2, i8mm, neon, generic"),
        ({"format": "q5"}, RequestError, "no weight format 'q5'"),
    ],
)
def test_wrong_options(options, error, message):
    with pytest.raises(error, match=message):
        load(PLAIN, **options)


def test_all_physical_cores_by_default():
    assert Engine.load(Weights(PLAIN), PLAIN).threads >= 1


@pytest.mark.parametrize("format", FORMATS)
def test_weights_are_converted_as_if_packed_whole(format):
    """`format=` gives the very engine that a checkpoint in that format gives."""
    source = Weights(ODD, "f32")
    converted = Engine.load(source, ODD, format=format, threads=1, kv_dtype="f16")
    assert converted.format == format
    for name, weight in converted.program.weights.items():
        expected = get_format(format).pack(source.weight(name).to_f32())
        assert np.array_equal(weight.data, expected)
        assert not get_format(format).packed or weight.data.ctypes.data % 64 == 0


def test_large_weights_are_converted_in_parts():
    """More weights than a part has, rows that are no multiple of a block."""
    spec = replace(PLAIN, vocab=20_011, hidden=72)
    source = Weights(spec, "f16")
    name = spec.names.name("embed")
    found = Engine.load(source, spec, format="q4", threads=1).program.weights[name]
    assert np.array_equal(found.data, get_format("q4").pack(source.weight(name).to_f32()))


def test_weights_that_are_not_finite_are_refused():
    class Bad(Weights):
        def weight(self, name):
            good = super().weight(name)
            if "up_proj" in name:
                good.data.view(np.float32)[100] = np.nan
            return good

    with pytest.raises(CheckpointError, match="up_proj"):
        Engine.load(Bad(PLAIN), PLAIN, format="q8", threads=1)


def test_nan_in_one_request_does_not_stay():
    """A table with a NaN in one row: whoever uses that row gets NaN; the next one on the same engine does not.

    The table is the output head too, so logit 7 is always NaN.
    """

    class Bad(Weights):
        def weight(self, name):
            good = super().weight(name)
            if name != ODD.names.name("embed"):
                return good
            table = good.to_f32()
            table[7, 3] = np.nan
            return Weight(name, "f32", good.shape, table.reshape(-1).view(np.uint8))

    engine = Engine.load(Bad(ODD, "q4"), ODD, threads=1)
    ids = tokens(12, ODD)
    ids[ids == 7] = 8
    good, bad = feed(engine, engine.open(), ids), ids.copy()
    bad[4] = 7
    wrong = feed(engine, engine.open(), bad)
    assert np.isnan(wrong[4:]).all() and np.isnan(good).sum(0).tolist() == [12 * (i == 7) for i in range(83)]
    assert np.array_equal(feed(engine, engine.open(), ids), good, equal_nan=True)


@pytest.mark.parametrize("how", ["cut", "rewritten", "deleted"])
def test_a_file_that_changes_after_loading(how, tmp_path):
    folder = write_folder("llama_plain", tmp_path / "model")
    checkpoint = Checkpoint.open(folder)
    engine = Engine.load(checkpoint, spec_of(checkpoint), threads=1)
    slot, ids = engine.open(), token_ids(BY_NAME["llama_plain"])
    feed(engine, slot, ids[:4])
    path = folder / "model.safetensors"
    if how == "cut":
        with open(path, "r+b") as file:
            file.truncate(path.stat().st_size // 2)
    elif how == "rewritten":
        path.write_bytes(path.read_bytes())
    else:
        path.unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        feed(engine, slot, ids[4:])
    assert engine.length(slot) == 4


def test_two_engines_do_not_share_state():
    a, b = load(PLAIN), load(WINDOWS)
    ids = tokens(30, PLAIN)
    first, slot = feed(a, a.open(), ids), a.open()
    feed(b, b.open(), ids)
    for i in range(30):
        feed(b, 0, ids[i : i + 1])
        assert relative(feed(a, slot, ids[i : i + 1]), first[i : i + 1]) <= 1e-6
