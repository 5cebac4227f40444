"""What a weight format costs against the golden logits of transformers, and that the engine adds nothing to it.

A float64 pass over the rounded weights says what rounding them costs (softmax amplifies it by more than a formula could
tell).  From that pass the engine may differ by its own rounding only: 1e-5 where activations stay float32, and where
they become int8, by a relative error d in each product's input.  The longest path to a logit has 4 products a layer
(v, o, up or gate, down), and the head; independent errors add as squares, so with P = 4 L + 1

    error <= 2 * sqrt(P) * d.

32 values with one int8 scale have steps of max/127 and so an rms error of max/(127 sqrt(12)); max is at most 3.3 times
the rms of a group, but for odd groups: d = 0.0075.  The 2 is for norms and softmax, which on these models turn an error
by no more than about that.  Machines that multiply pairs of bf16 round activations to 8 bits: d = 2^-8 / sqrt(3), times
0.74 over all mantissas, = 0.0017.  Against transformers the two costs add up.
"""

from pathlib import Path

import numpy as np
import pytest
from golden.naive import forward
from golden.recipe import BY_NAME, load, token_ids, write_folder

from lepton_edge.checkpoint.store import Checkpoint
from lepton_edge.kernels.machine import choose, instruction_set
from lepton_edge.models.registry import spec_of
from lepton_edge.quant.pack import pack_weight
from lepton_edge.runtime import Engine

SLACK, INT8, BF16 = 2.0, 0.0075, 0.0017
NAMES = ("llama_plain", "llama_smollm", "llama_bias", "mistral_window", "qwen2_tied", "qwen2_untied")


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """||a - b|| / ||b|| in float64."""
    return float(np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(b.astype(np.float64)))


def check(folder: Path, format: str, ids: np.ndarray, rows: np.ndarray, golden: np.ndarray) -> None:
    """Run a folder's model in a format, and compare with float64 on the same weights, and with the golden logits."""
    with Checkpoint.open(folder) as checkpoint:
        spec = spec_of(checkpoint)
        exact = {name: checkpoint.weight(name).to_f32() for name in spec.tensors()}
        rounded = {
            name: pack_weight(checkpoint.weight(name), format, name).to_f32() if values.ndim == 2 else values
            for name, values in exact.items()
        }
        engine = Engine.load(checkpoint, spec, format=format, threads=1, kv_dtype="f32")
        try:
            slot = engine.open()
            found = engine.forward(ids, [slot] * len(ids), range(len(ids)), range(len(ids)))[rows]
        finally:
            engine.close()
    expected = forward(spec, rounded, ids)[rows]
    pairs = format == "bf16" and instruction_set(choose()).bf16_pairs
    d = INT8 if format in ("q4", "q8") else BF16 if pairs else 0
    own = max(1e-5, SLACK * np.sqrt(4 * len(spec.layers) + 1) * d)
    assert relative(found, expected) <= own
    assert relative(found, golden) <= own + relative(expected, golden)


@pytest.mark.parametrize("format", ["f16", "bf16", "q8", "q4"])
@pytest.mark.parametrize("name", NAMES)
def test_seeded_models(name: str, format: str, tmp_path: Path) -> None:
    ids, golden = token_ids(BY_NAME[name]), load(name)["logits"]
    check(write_folder(name, tmp_path / name), format, ids, np.arange(len(ids)), golden)


@pytest.mark.parametrize("format", ["f16", "bf16", "q8", "q4"])
def test_trained_model(format: str, shared: Path) -> None:
    stored = load("tinystories656k")
    check(shared / "models" / "tinystories656k", format, stored["prompt"], stored["positions"], stored["logits"])
