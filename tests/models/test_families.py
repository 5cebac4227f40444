"""Every family as a spec and a plain float64 forward pass against the golden logits, without the engine."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden.naive import forward
from golden.recipe import BY_NAME, RECIPES, checksum, load, tensors, token_ids, write_folder
from golden.recurrent import CONFIGS

from lepton_edge.checkpoint.store import Checkpoint
from lepton_edge.models.registry import spec_from_config, spec_of
from lepton_edge.models.rope import Dynamic
from lepton_edge.models.spec import Attention, FeedForward, Layer, ModelSpec, Norm

PLAIN = [recipe for recipe in RECIPES if recipe.name not in CONFIGS]  # those that golden.naive knows
ATTENTION, FEED_FORWARD = ({field.name for field in fields(part)} for part in (Attention, FeedForward))


def changed(spec: ModelSpec, windows: tuple[int | None, ...] = (), **changes: Any) -> ModelSpec:
    """The spec with some fields changed, which may be fields of its norm or of the parts of all its layers."""
    layers = []
    for i, layer in enumerate(spec.layers):
        window = {"window": windows[i]} if windows else {}
        mixer = replace(layer.mixer, **window, **{k: v for k, v in changes.items() if k in ATTENTION})
        feed_forward = replace(layer.feed_forward, **{k: v for k, v in changes.items() if k in FEED_FORWARD})
        layers.append(Layer(mixer, feed_forward))
    rest = {k: v for k, v in changes.items() if k not in ATTENTION | FEED_FORWARD}
    return replace(spec, layers=tuple(layers), **rest)


def difference(name: str, **changes: Any) -> float:
    """||plain - golden|| / ||golden|| over all logits, with the spec `changed`."""
    recipe = BY_NAME[name]
    stored, golden = tensors(recipe), load(name)["logits"].astype(np.float64)
    spec = changed(spec_from_config(recipe.config, "config.json").with_tensors(stored), **changes)
    return float(np.linalg.norm(forward(spec, stored, token_ids(recipe)) - golden) / np.linalg.norm(golden))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_the_golden_logits_belong_to_the_recipe(recipe) -> None:
    stored = load(recipe.name)
    assert int(stored["checksum"]) == checksum(recipe), "the recipe changed: run tools/make_golden.py"
    assert stored["logits"].shape == (recipe.length, recipe.config["vocab_size"])
    assert stored["logits"].dtype == np.float32


@pytest.mark.parametrize("recipe", PLAIN, ids=lambda recipe: recipe.name)
def test_spec_reproduces_transformers(recipe) -> None:
    """The noise is the distance of transformers' float32 from its float64 run, which keeps float32 norms: hence 2."""
    noise = float(load(recipe.name)["noise"])
    assert noise < 3e-6
    assert difference(recipe.name) <= 2 * noise


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("llama_bias", {"o_bias": False}),
        ("llama_bias", {"bias": False}),
        ("llama_both", {"tied": True}),
        ("llama_head8", {"norm": Norm(1e-5)}),
        ("mistral_window", {"windows": (None,) * 3}),
        ("mistral_window", {"windows": (14,) * 3}),
        ("mistral_window", {"windows": (13, 13, 12)}),
        ("qwen2_tied", {"qkv_bias": False}),
        ("qwen2_window", {"windows": (9,) * 3}),
        ("qwen2_layers", {"windows": (11, 11, 11)}),
    ],
)
def test_a_wrong_spec_shows(name: str, changes: dict[str, Any]) -> None:
    assert difference(name, **changes) > 1e-3


@pytest.mark.parametrize("recipe", [r for r in PLAIN if "rope" in str(r.config)], ids=lambda r: r.name)
def test_a_wrong_rope_shows(recipe) -> None:
    rope = spec_from_config(recipe.config, "config.json").attentions[0].rope
    assert difference(recipe.name, rope=replace(rope, theta=rope.theta * 1.1)) > 1e-3
    if rope.scaling is None:
        return
    assert difference(recipe.name, rope=replace(rope, scaling=None)) > 1e-2
    scaling = replace(rope.scaling, factor=rope.scaling.factor * 1.1)
    assert difference(recipe.name, rope=replace(rope, scaling=scaling)) > 1e-3
    if isinstance(scaling, Dynamic):
        assert difference(recipe.name, rope=replace(rope, scaling=replace(rope.scaling, original=25))) > 1e-3


@pytest.mark.parametrize(("name", "shards"), [(recipe.name, None) for recipe in RECIPES] + [("qwen2_tied", 3)])
def test_the_folder_holds_the_model(name: str, shards: int | None, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_folder(name, tmp_path / name, shards))
    recipe = BY_NAME[name]
    assert spec_of(checkpoint).tensors() == {tensor: values.shape for tensor, values in tensors(recipe).items()}
    assert len(checkpoint.files) == (shards or recipe.shards)
    for tensor, values in tensors(recipe).items():
        assert checkpoint.format(tensor) == recipe.dtype.lower()
        np.testing.assert_array_equal(checkpoint.weight(tensor).to_f32(), values)
    checkpoint.close()


def test_a_trained_model_whose_table_is_stored_as_the_head(shared: Path) -> None:
    """Four stored rows of logits, and greedy text from one pass over the golden text itself."""
    stored = load("tinystories656k")
    with Checkpoint.open(shared / "models" / "tinystories656k") as checkpoint:
        spec = spec_of(checkpoint)
        weights = {name: checkpoint.weight(name).to_f32() for name in spec.tensors()}
    logits = forward(spec, weights, np.concatenate([stored["prompt"], stored["greedy"]]))
    picked = logits[stored["positions"]]
    assert np.linalg.norm(picked - stored["logits"]) <= 2 * float(stored["noise"]) * np.linalg.norm(picked)
    np.testing.assert_array_equal(logits[len(stored["prompt"]) - 1 : -1].argmax(-1), stored["greedy"])
