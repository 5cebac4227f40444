"""The engine against transformers: golden logits of every recipe, and of a trained model with its greedy text."""

from pathlib import Path

import numpy as np
import pytest
from golden.recipe import BY_NAME, RECIPES, Recipe, load, token_ids, write_folder

from lepton_edge.checkpoint.store import Checkpoint
from lepton_edge.kernels.machine import available, instruction_set
from lepton_edge.models.registry import spec_of
from lepton_edge.runtime import Engine

TOLERANCE = 1e-5  # what the project promises; transformers' own float32 noise on these models is 0.5e-6 to 1.7e-6


# The best set that does not round activations to bf16, as those with products of pairs do where the weights are bf16.
EXACT = next(name for name in available() if not instruction_set(name).bf16_pairs)
U_BF16 = 2.0**-9


def open_engine(folder: Path, isa: str = EXACT) -> Engine:
    """The model in a folder, in its own format, with a float32 cache."""
    checkpoint = Checkpoint.open(folder)
    return Engine.load(checkpoint, spec_of(checkpoint), format=None, threads=1, isa=isa, kv_dtype="f32", context=None)


def run(engine: Engine, slot: int, tokens: np.ndarray, chunk: int) -> np.ndarray:
    """Appends tokens to a slot, `chunk` in each call, and returns all their logits, float32 [T, V]."""
    rows = []
    for start in range(0, len(tokens), chunk):
        part = tokens[start : start + chunk].astype(np.int32)
        first, count = engine.length(slot), len(part)
        positions = np.arange(first, first + count, dtype=np.int32)
        rows.append(engine.forward(part, np.full(count, slot, np.int32), positions, np.arange(count, dtype=np.int32)))
    return np.concatenate(rows)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """||a - b|| / ||b|| in float64."""
    return float(np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(b.astype(np.float64)))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("chunk", [32, 5, 1])
def test_logits_are_those_of_transformers(recipe: Recipe, chunk: int, tmp_path: Path) -> None:
    engine = open_engine(write_folder(recipe.name, tmp_path / recipe.name))
    try:
        logits = run(engine, engine.open(), token_ids(recipe), min(chunk, engine.max_batch))
    finally:
        engine.close()
    assert logits.dtype == np.float32
    assert relative(logits, load(recipe.name)["logits"]) <= TOLERANCE


@pytest.mark.skipif(available()[0] == EXACT, reason="this CPU does not multiply pairs of bf16")
@pytest.mark.parametrize("chunk", [32, 1])
def test_pairs_of_bf16_round_activations(chunk: int, tmp_path: Path) -> None:
    """Each of the 4 L + 1 products reads activations that are rounded once, by at most U_BF16; twice that as slack."""
    recipe = BY_NAME["llama_bf16"]
    engine = open_engine(write_folder(recipe.name, tmp_path / recipe.name), available()[0])
    try:
        logits = run(engine, engine.open(), token_ids(recipe), chunk)
    finally:
        engine.close()
    bound = 2 * np.sqrt(4 * recipe.config["num_hidden_layers"] + 1) * U_BF16
    assert 1e-4 < relative(logits, load(recipe.name)["logits"]) <= bound


@pytest.mark.parametrize("shards", [1, 3])
def test_shards_do_not_matter(shards: int, tmp_path: Path) -> None:
    engine = open_engine(write_folder("qwen2_tied", tmp_path / "model", shards))
    try:
        logits = run(engine, engine.open(), token_ids(BY_NAME["qwen2_tied"]), 16)
    finally:
        engine.close()
    assert relative(logits, load("qwen2_tied")["logits"]) <= TOLERANCE


def test_trained_model(shared: Path) -> None:
    stored = load("tinystories656k")
    engine = open_engine(shared / "models" / "tinystories656k")
    try:
        slot = engine.open()
        logits = run(engine, slot, stored["prompt"], 16)
        assert relative(logits[stored["positions"]], stored["logits"]) <= TOLERANCE
        greedy = [int(logits[-1].argmax())]
        while len(greedy) < len(stored["greedy"]):
            greedy.append(int(run(engine, slot, np.array(greedy[-1:]), 1)[0].argmax()))
    finally:
        engine.close()
    assert greedy == stored["greedy"].tolist()
