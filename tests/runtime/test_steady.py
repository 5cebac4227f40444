"""Steady state: ten thousand tokens leave nothing behind, and a step's own memory does not grow with the vocabulary."""

import gc
import itertools
import json
import tracemalloc

import numpy as np
import pytest
from engines import decoder, load
from golden import recipe
from processes import resident

import lepton_edge as lepton
from lepton_edge.generate.params import SamplingParams
from lepton_edge.generate.sampling import Sampler

pytestmark = pytest.mark.slow

TOKENS = 10_000
SMALLEST = 24  # bytes of the smallest of Python's objects
SAMPLED = {"temperature": 1.0, "top_k": 20, "top_p": 0.9, "seed": 1}
WIDE = decoder(32, 48, 2, 1, 16, 5000)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder whose text never ends, of a context that holds all tokens; each attends to 13 of them."""
    folder = recipe.write_folder("mistral_window", tmp_path_factory.mktemp("model") / "endless")
    changes = {"max_position_embeddings": TOKENS + 2, "eos_token_id": []}
    for name in ("config.json", "generation_config.json"):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    (folder / "tokenizer_config.json").unlink()
    with lepton.load(folder, threads=2) as model:
        for _ in model.stream([1] * TOKENS, max_tokens=2):  # pages and angles of every position
            pass
        yield model


def check_steady(tokens, count=TOKENS):
    """After a tenth of `count` tokens nothing is added any more; -> the most bytes that a token needed for itself.

    Allowed are one object for every tenth token (a list of pages grows by 8 bytes for each 128 positions, and NumPy
    keeps 7 small arrays of each size), and 32 bytes of the process for each, as the system counts in whole pages.
    """
    gc.disable()  # what is in cycles must not be freed by chance
    tracemalloc.start()
    try:
        skip(tokens, count // 10)
        gc.collect()  # empties Python's lists of free objects
        before, process = tracemalloc.get_traced_memory()[0], resident()
        tracemalloc.reset_peak()
        skip(tokens, count - count // 10)
        now, peak = tracemalloc.get_traced_memory()
        cycles = gc.collect()
        kept, process = tracemalloc.get_traced_memory()[0] - before, resident() - process
    finally:
        tracemalloc.stop()
        gc.enable()
    assert cycles < count // 100, f"{cycles} objects were in cycles"
    assert kept < count * 9 // 100 * SMALLEST, f"{kept} bytes were kept"
    assert process < count * 32, f"the process has grown by {process} bytes"
    return peak - now


def skip(tokens, count):
    for _ in range(count):
        next(tokens)


def test_a_long_stream(model):
    check_steady(model.stream([1], max_tokens=TOKENS + 1, **SAMPLED))


def test_many_requests(model):
    """A request's pieces, detokenizer, sampler and slot go with it."""
    requests = ([1, 3 + i % 90] for i in itertools.count())
    check_steady((piece for ids in requests for piece in model.stream(ids, max_tokens=10, **SAMPLED)), TOKENS // 2)


def test_steps_and_a_sampler():
    """Single steps of two sequences: at the end of the context, one is cut, and another follows the other."""
    engine = load(WIDE, threads=2)
    sampler = Sampler(SamplingParams(**SAMPLED), np.array([1], np.int32), WIDE.vocab)

    def tokens():
        cut, short, ids = engine.open(), engine.open(), [1, 1]
        for i in itertools.count():
            slot, turn = (cut, short)[i % 2], i % 2
            summary = engine.step([ids[turn]], [slot], [engine.length(slot)], [0], [sampler.temperature])
            ids[turn] = sampler.choose(summary, 0)[0]
            yield ids[turn]
            if engine.length(cut) == engine.context:
                engine.truncate(cut, 5)
            if engine.length(short) == engine.context // 2:
                engine.close_slot(short)
                short = engine.open()

    assert check_steady(tokens()) < 4 * WIDE.vocab, "a copy of the logits was made"
    engine.close()
