"""The same numbers, however a sequence is cut, batched or shared out over threads, and on every instruction set."""

import numpy as np
import pytest
from engines import FORMATS, SPECS, WINDOWS, feed, load, reference, relative, tokens, tolerance
from kernels.harness import ISAS

from lepton_edge.kernels.ops import CACHES

each_isa = pytest.mark.parametrize("isa", ISAS)
each_format = pytest.mark.parametrize("format", FORMATS)
each_spec = pytest.mark.parametrize("name", SPECS)

# A token's sums have the same order whatever else is in the batch. Only lanes that are masked, and weigh e^-87, may
# differ; they can break a tie, in the last bit of a float.
SAME = 1e-6


@each_isa
@each_format
@each_spec
def test_engine_and_reference(name, format, isa):
    for kv_dtype in CACHES:
        engine = load(SPECS[name], format, isa=isa, kv_dtype=kv_dtype)
        run, ids = reference(engine), tokens(140, SPECS[name])
        found, expected = feed(engine, engine.open(), ids), feed(run, run.open(), ids)
        assert relative(found, expected) <= tolerance(format, kv_dtype, isa)


@each_isa
@each_format
@each_spec
def test_prefill_and_steps(name, format, isa):
    engine, ids = load(SPECS[name], format, isa=isa), tokens(140, SPECS[name])
    whole = feed(engine, engine.open(), ids)
    for chunk in (1, 2, 3, 5, 8, 9, 16, 21, 128):
        assert relative(feed(engine, engine.open(), ids, chunk), whole) <= SAME, chunk


def test_bf16_pairs():
    """Activations rounded to bf16, in prompts and in single steps alike; on any machine, for it is emulated."""
    isa = "avx512bf16" if "avx512bf16" in ISAS else f"avx512bf16@{ISAS[0]}"
    engine, ids = load(SPECS["odd"], "bf16", isa=isa, kv_dtype="f32"), tokens(70, SPECS["odd"])
    run, whole = reference(engine), feed(engine, engine.open(), ids)
    assert 1e-4 < relative(whole, feed(run, run.open(), ids)) <= tolerance("bf16", "f32", isa)
    for chunk in (1, 2, 7, 64):
        assert relative(feed(engine, engine.open(), ids, chunk), whole) <= SAME, chunk


@each_isa
@each_format
def test_threads(isa, format):
    """Bit by bit: what a thread computes does not depend on which thread it is."""
    ids = tokens(150, WINDOWS)
    alone = load(WINDOWS, format, isa=isa)
    expected = feed(alone, alone.open(), ids), feed(alone, alone.open(), ids[:20], 1)
    for threads in (2, 3, 4):
        engine = load(WINDOWS, format, isa=isa, threads=threads)
        for _ in range(2):
            assert np.array_equal(feed(engine, engine.open(), ids), expected[0])
        assert np.array_equal(feed(engine, engine.open(), ids[:20], 1), expected[1])
        engine.close()


@each_isa
@each_format
@each_spec
def test_sequences_in_one_batch(name, format, isa):
    """Three sequences of different lengths, in turns of 1 to 9 tokens, in batches that cut across them."""
    spec, lengths, rng = SPECS[name], (140, 60, 35), np.random.default_rng(1)
    engine = load(spec, format, isa=isa)
    ids = [tokens(length, spec, seed) for seed, length in enumerate(lengths)]
    alone = [feed(engine, engine.open(), each) for each in ids]
    slots = [engine.open() for _ in ids]
    turns, todo = [], list(lengths)
    while any(todo):
        which = rng.choice([i for i in range(3) if todo[i]])
        count = min(todo[which], int(rng.integers(1, 10)))
        turns += [which] * count
        todo[which] -= count
    positions = [turns[:i].count(which) for i, which in enumerate(turns)]
    together = [np.empty_like(a) for a in alone]
    for start in range(0, len(turns), 47):
        part = list(zip(turns, positions, strict=True))[start : start + 47]
        logits = engine.forward([ids[i][p] for i, p in part], [slots[i] for i, _ in part], [p for _, p in part],
                                range(len(part)))  # fmt: skip
        for row, (i, p) in zip(logits, part, strict=True):
            together[i][p] = row
    for one, many in zip(alone, together, strict=True):
        assert relative(many, one) <= SAME


@each_format
def test_instruction_sets(format):
    """Within rounding: some fuse a product and a sum, some do not."""
    results = {}
    for isa in ISAS:
        engine = load(WINDOWS, format, isa=isa)
        results[isa] = feed(engine, engine.open(), tokens(140, WINDOWS))
    for isa in ISAS[1:]:
        assert relative(results[isa], results[ISAS[0]]) <= tolerance(format, engine.program.kv_dtype, *ISAS)


def test_a_sequence_that_fills_its_context():
    """Beyond the first block of angles, and where single tokens split the cache."""
    engine, ids = load(WINDOWS, threads=2), tokens(1100, WINDOWS)
    run = reference(engine)
    slot, other = engine.open(), run.open()
    assert relative(feed(engine, slot, ids[:1060]), feed(run, other, ids[:1060])) <= 1e-5
    assert relative(feed(engine, slot, ids[1060:], 1), feed(run, other, ids[1060:])) <= 1e-5


@pytest.mark.parametrize("format", ["f32", "q4"])
def test_more_tokens_than_a_step_takes(format):
    """1000 tokens in one call; the logits of all, of every third, of the last, and of none."""
    engine, ids = load(WINDOWS, format, threads=2), tokens(1000, WINDOWS)
    assert engine.max_batch < 1000
    whole = feed(engine, engine.open(), ids, 60)
    assert relative(feed(engine, engine.open(), ids), whole) <= SAME
    for wanted in (np.arange(0, 1000, 3), [999], [0], [511, 512], range(64), range(500, 565)):
        assert relative(feed(engine, engine.open(), ids, wanted=wanted), whole[list(wanted)]) <= SAME
    slot = engine.open()
    assert feed(engine, slot, ids, wanted=[]).shape == (0, WINDOWS.vocab) and engine.length(slot) == 1000


@pytest.mark.parametrize("format", ["f32", "q8"])
def test_truncate_and_go_on(format):
    """Back over the border of a page, with other tokens in between: nothing of them is left."""
    engine, ids, others = load(WINDOWS, format), tokens(200, WINDOWS), tokens(80, WINDOWS, 1)
    whole, slot = feed(engine, engine.open(), ids), engine.open()
    feed(engine, slot, np.concatenate([ids[:120], others]), 50)
    for length in (120, 128, 0, 1):
        engine.truncate(slot, min(length, engine.length(slot)))
        start = engine.length(slot)
        assert relative(feed(engine, slot, ids[start:]), whole[start:]) <= SAME


@pytest.mark.parametrize("format", ["f32", "q8"])
def test_pages_of_a_closed_sequence_are_used_again(format):
    engine, ids = load(WINDOWS, format), tokens(300, WINDOWS)
    slot = engine.open()
    first = feed(engine, slot, ids)
    used = engine.cache_bytes
    for _ in range(3):
        engine.close_slot(slot)
        slot = engine.open()
        feed(engine, slot, tokens(290, WINDOWS, 5))
        engine.close_slot(slot)
        slot = engine.open()
        assert np.array_equal(feed(engine, slot, ids), first)
    assert engine.cache_bytes == used
