"""Counts what tokens leave behind: python steady_program.py KIND TOKENS FOLDER, for test_steady.py.

A process of its own, because what earlier tests left would be counted.  Prints what the last nine tenths of the tokens
added, in bytes of Python's memory (`kept`) and of the process, how many objects lay in cycles, and the most bytes that
a token needed for itself.
"""

import gc
import itertools
import json
import sys
import tracemalloc
from collections.abc import Iterator

import numpy as np
from engines import decoder, load
from processes import resident

import lepton_edge as lepton
from lepton_edge.generate.params import SamplingParams
from lepton_edge.generate.sampling import Sampler

SAMPLED = {"temperature": 1.0, "top_k": 20, "top_p": 0.9, "seed": 1}
WIDE = decoder(32, 48, 2, 1, 16, 5000)


def stream(count: int, folder: str) -> Iterator[object]:
    """One long text."""
    with lepton.load(folder, threads=2) as model:
        for _ in model.stream([1] * count, max_tokens=2):  # pages and angles of every position
            pass
        yield from model.stream([1], max_tokens=count + 1, **SAMPLED)


def requests(count: int, folder: str) -> Iterator[object]:
    """Many short texts: a request's pieces, detokenizer, sampler and slot go with it."""
    with lepton.load(folder, threads=2) as model:
        for i in itertools.count():
            yield from model.stream([1, 3 + i % 90], max_tokens=10, **SAMPLED)


def steps(count: int, folder: str) -> Iterator[object]:
    """Single steps of two sequences: at the end of its context one is cut, and another follows the other."""
    engine = load(WIDE, threads=2)
    sampler = Sampler(SamplingParams(**SAMPLED), np.array([1], np.int32), WIDE.vocab)
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


def skip(tokens: Iterator[object], count: int) -> None:
    for _ in range(count):
        next(tokens)


def measure(tokens: Iterator[object], count: int) -> dict[str, int]:
    gc.disable()  # what is in cycles must not be freed by chance
    next(tokens)
    tracemalloc.start()
    skip(tokens, count // 10)
    gc.collect()  # empties Python's lists of free objects
    before, process = tracemalloc.get_traced_memory()[0], resident()
    tracemalloc.reset_peak()
    skip(tokens, count - count // 10 - 1)
    now, peak = tracemalloc.get_traced_memory()
    cycles = gc.collect()
    kept = tracemalloc.get_traced_memory()[0] - before
    return {"kept": kept, "process": resident() - process, "cycles": cycles, "most": peak - now}


if __name__ == "__main__":
    kind, count, folder = sys.argv[1:]
    print(json.dumps(measure(globals()[kind](int(count), folder), int(count))))
