"""Encoder-decoders against transformers: logits, and the ids of searches over several sources at once."""

from collections.abc import Iterator

import numpy as np
import pytest
from golden import seq2seq
from golden.seq2seq import BY_NAME, PAIRS, REQUESTS, Pair, sources, target

from lepton_edge.checkpoint.store import Checkpoint
from lepton_edge.errors import ConfigError, RequestError
from lepton_edge.generate.pairs import beam_search, sample
from lepton_edge.generate.params import SamplingParams
from lepton_edge.generate.rules import Rules
from lepton_edge.generate.shared import SharedEngine
from lepton_edge.models.registry import spec_from_config, spec_of
from lepton_edge.program import build_program
from lepton_edge.program.reference import Reference
from lepton_edge.runtime import Engine
from lepton_edge.runtime.pair import PairEngine

EVERY = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Checkpoint]:
    """An open folder of every model."""
    root = tmp_path_factory.mktemp("pairs")
    return {pair.name: Checkpoint.open(seq2seq.write_folder(pair, root / pair.name)) for pair in PAIRS}


@pytest.fixture
def load(folders) -> Iterator:
    """Makes engines, which are closed in the end."""
    engines: list[Engine] = []

    def make(pair: Pair, **options) -> PairEngine:
        checkpoint = folders[pair.name]
        engine = Engine.load(checkpoint, spec_of(checkpoint), threads=2, **options)
        engines.append(engine)
        assert isinstance(engine, PairEngine)
        return engine

    yield make
    for engine in engines:
        engine.close()


def logits(engine: PairEngine, memory: int, ids: np.ndarray, steps: bool = False) -> np.ndarray:
    """[T, V], at once or in single steps."""
    slot, count = engine.open_with(memory), len(ids)
    cuts = [(i, i + 1) for i in range(count)] if steps else [(0, count)]
    parts = [engine.forward(ids[a:b], [slot] * (b - a), range(a, b), range(b - a)) for a, b in cuts]
    engine.close_slot(slot)
    return np.concatenate(parts)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """||a - b|| / ||b||."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def rules_of(pair: Pair, request: dict) -> Rules:
    """What transformers makes of a request and the config."""
    bad = request.get("bad_words_ids", pair.config.get("bad_words_ids", []))
    return Rules(
        frozenset([2]), request["max_new_tokens"], request.get("min_new_tokens", 0), request.get("forced_bos_token_id"),
        request.get("forced_eos_token_id"), request.get("no_repeat_ngram_size", 0), tuple(map(tuple, bad)),
        repeat_penalty=request.get("repetition_penalty", 1.0),
    )  # fmt: skip


@EVERY
def test_logits_are_those_of_transformers(pair, load) -> None:
    stored, engine = seq2seq.load(), load(pair)
    assert int(stored[f"{pair.name} about"][1]) == seq2seq.checksum(pair), "it changed: run tools/make_golden.py"
    memory = engine.remember(sources(pair))[0]
    for steps in (False, True):
        assert relative(logits(engine, memory, target(pair), steps), stored[pair.name]) < 1e-5


@EVERY
@pytest.mark.parametrize(("format", "most"), [("q8", 0.15), ("q4", 0.9)])
def test_packed_weights_run(pair, format, most, load) -> None:
    engine = load(pair, format=format)
    memory = engine.remember(sources(pair))[0]
    away = relative(logits(engine, memory, target(pair)), seq2seq.load()[pair.name])
    assert 1e-4 < away < most


@EVERY
def test_searches_give_the_ids_of_transformers(pair, load) -> None:
    stored, engine = seq2seq.load(), load(pair)
    shared = SharedEngine(engine)
    for name, request in REQUESTS.items():
        found = beam_search(
            shared, sources(pair), [engine.spec.start], rules_of(pair, request), request["num_beams"],
            request.get("length_penalty", 1.0), request.get("early_stopping", False),
        )  # fmt: skip
        assert found == [row[row >= 0].tolist() for row in stored[f"{pair.name} {name}"]], name
    assert not engine._pages.lengths, "every slot was given back"


@pytest.mark.parametrize("kv_dtype", ["f32", "f16", "q8"])
def test_the_reference_agrees(kv_dtype, folders, load) -> None:
    pair = PAIRS[3]
    checkpoint, engine = folders[pair.name], load(pair, kv_dtype=kv_dtype)
    spec = spec_of(checkpoint)
    assert spec.encoder is not None
    encoder = Reference(build_program(spec.encoder, checkpoint.weight, kv_dtype, 64), spec.encoder)
    decoder = Reference(build_program(spec, checkpoint.weight, kv_dtype, 64), spec)
    source, ids = sources(pair)[1], target(pair)
    memory, slot = encoder.open(), 1
    encoder.run_until(len(encoder.program.rows), source, [memory] * len(source), np.arange(len(source)), [])
    decoder.lengths, decoder.cache = {memory: len(source), slot: 0}, encoder.cache
    decoder.memories[slot] = memory
    expected = decoder.forward(ids, [slot] * len(ids), range(len(ids)), range(len(ids)))
    found = logits(engine, engine.remember([source])[0], ids)
    assert relative(found, expected) < {"f32": 1e-6, "f16": 2e-3, "q8": 2e-2}[kv_dtype]


def test_sources_do_not_see_each_other(load) -> None:
    """Encoded together or alone, in a mixed step or alone: the same numbers."""
    pair = PAIRS[0]
    engine, ids = load(pair), target(pair)
    together = engine.remember(sources(pair))
    alone = [engine.remember([source])[0] for source in sources(pair)]
    expected = [logits(engine, memory, ids) for memory in alone]
    assert relative(expected[0], expected[1]) > 0.1
    slots = [engine.open_with(memory) for memory in together]
    mixed = engine.forward(np.tile(ids, 3), np.repeat(slots, len(ids)), np.tile(np.arange(len(ids)), 3),
                           np.arange(3 * len(ids)))  # fmt: skip
    for found, wanted in zip(np.split(mixed, 3), expected, strict=True):
        assert relative(found, wanted) < 1e-6


def test_a_fork_goes_its_own_way(load) -> None:
    """Over the end of a page, with a cache of several."""
    pair = PAIRS[1]
    engine = load(pair)
    memory = engine.remember(sources(pair)[:1])[0]
    ids = np.resize(target(pair), 140).astype(np.int32)
    others = [np.concatenate([ids[:100], np.full(40, token, np.int32)]) for token in (5, 9)]
    expected = [logits(engine, memory, row)[100:] for row in others]
    slot = engine.open_with(memory)
    engine.forward(ids[:100], [slot] * 100, range(100), [])
    forks, found = [slot, engine.fork(slot)], []
    for at in range(100, 140):
        found.append(engine.forward([5, 9], forks, [at, at], [0, 1]))
    for i in range(2):
        assert relative(np.stack(found)[:, i], expected[i]) < 1e-5
    engine.close_slot(forks[1])
    assert relative(logits(engine, memory, others[0])[100:], expected[0]) < 1e-6


def test_drawn_texts(load) -> None:
    """The same seed gives the same text; a top-k of 1 is the greedy search; the source's likeliest tokens come most."""
    pair = PAIRS[0]
    engine = load(pair)
    shared, rules = SharedEngine(engine), Rules(frozenset([2]), 6)
    draw = lambda seed, **more: sample(  # noqa: E731
        shared, sources(pair), [0], rules, SamplingParams(temperature=1.0, **more), np.random.default_rng(seed)
    )
    assert draw(1) == draw(1) != draw(2)
    assert draw(3, top_k=1) == beam_search(shared, sources(pair), [0], rules, 1)
    engine.remember(sources(pair)[:1])
    first = [sample(shared, sources(pair)[:1], [0], Rules(frozenset([2]), 1), SamplingParams(temperature=1.0,
                    top_k=0), np.random.default_rng(i))[0][0] for i in range(400)]  # fmt: skip
    memory = engine.remember(sources(pair)[:1])[0]
    raw = logits(engine, memory, np.array([0], np.int32))[0].astype(float)
    shares = np.exp(raw - raw.max()) / np.exp(raw - raw.max()).sum()
    assert np.abs(np.bincount(first, minlength=len(raw)) / 400 - shares).max() < 0.08


def test_wrong_use_is_refused(load) -> None:
    engine = load(PAIRS[0])
    with pytest.raises(RequestError, match="no memory to attend to"):
        engine.forward([0], [engine.open()], [0], [0])
    with pytest.raises(RequestError, match="empty source"):
        engine.remember([[1, 2], []])
    with pytest.raises(RequestError, match="token ids"):
        engine.remember([[1, 10_000]])
    memory = engine.remember([[1, 2]])[0]
    slot = engine.open_with(memory)
    engine.close_slot(memory)
    with pytest.raises(RequestError, match="no memory to attend to"):
        engine.forward([0], [slot], [0], [0])
    with pytest.raises(RequestError, match="is not open"):
        engine.open_with(200)


def test_computed_positions_are_bounded() -> None:
    """A table of 16 million rows would take gigabytes, of a config of a few bytes."""
    config = {**BY_NAME["marian"].config, "max_position_embeddings": (1 << 16) + 1}
    with pytest.raises(ConfigError, match="max_position_embeddings"):
        spec_from_config(config, "config.json")
    assert spec_from_config({**config, "max_position_embeddings": 1 << 16}, "config.json").context == 1 << 16
