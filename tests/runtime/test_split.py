"""Single tokens over a long cache: attention splits the pages into parts, and merges them in the order of positions."""

import numpy as np
import pytest
from golden.recipe import BY_NAME

from lepton_edge.kernels.layout import PAGE, PART_PAGES
from lepton_edge.kernels.machine import available
from lepton_edge.models.registry import spec_from_config
from lepton_edge.quant.random import RandomCheckpoint
from lepton_edge.runtime import Engine

DEPTH = PAGE * PART_PAGES * 2 + 37  # three parts, the last one short
STEPS = 4
# Splitting only reorders float32 sums over some thousand positions: a few units of 2^-24 times the root of that.
TOLERANCE = 16 * 2.0**-24 * DEPTH**0.5


def decode(engine: Engine, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the last STEPS tokens: by single steps (split), and as one chunk (never split)."""
    slot, n = engine.open(), len(ids) - STEPS
    engine.forward(ids[:n], [slot] * n, range(n), [])
    steps = [engine.forward(ids[i : i + 1], [slot], [i], [0]) for i in range(n, len(ids))]
    engine.truncate(slot, n)
    return np.concatenate(steps), engine.forward(ids[n:], [slot] * STEPS, range(n, len(ids)), range(STEPS))


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize(("recipe", "window"), [("llama_smollm", 0), ("llama_head80", 0), ("mistral_window", 700)])
def test_split_attention_is_attention(recipe: str, window: int, isa: str) -> None:
    config = BY_NAME[recipe].config | {"max_position_embeddings": 2048} | ({"sliding_window": window} if window else {})
    spec = spec_from_config(config, "config.json")
    ids = np.random.default_rng(0).integers(0, spec.vocab, DEPTH + STEPS)
    found = []
    for threads in (1, 3):
        engine = Engine.load(RandomCheckpoint(spec.tensors(), "f32"), spec, threads=threads, isa=isa)
        try:
            steps, chunk = decode(engine, ids)
        finally:
            engine.close()
        assert np.linalg.norm(steps - chunk) <= TOLERANCE * np.linalg.norm(chunk)
        found.append(steps)
    assert np.array_equal(*found), "the split must not depend on the number of threads"
