"""Adapters against PEFT: golden logits, steps, packed bases, concurrent sequences, and merged folders.

Tolerances: f32 is what the project promises, 1e-5 relative; packed bases are held against the reference executor on the
same weights, with the bound of test_every_family.py (int8 activations in each of 4 L + 1 products).
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from golden.adapters import BY_NAME, CASES, Case, checksum, load, write_adapter, write_base

from lepton_edge.adapters import Adapter, read_adapter
from lepton_edge.adapters.merge import merge_folder
from lepton_edge.checkpoint.store import Checkpoint
from lepton_edge.models.registry import spec_from_config, spec_of
from lepton_edge.program import build_program
from lepton_edge.program.reference import Reference
from lepton_edge.runtime import Engine, Plan

TOLERANCE, SLACK, INT8 = 1e-5, 2.0, 0.0075
GOLDEN = cache(load)
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@pytest.fixture
def base(case: Case, tmp_path: Path) -> Iterator[Checkpoint]:
    with Checkpoint.open(write_base(case, tmp_path / "base")) as checkpoint:
        yield checkpoint


def read(checkpoint: Checkpoint, case: Case, path: Path) -> Adapter:
    names = spec_from_config(checkpoint.config, "config.json").names
    return read_adapter(write_adapter(case, path), spec_of(checkpoint), names)


def feed(engine: Engine | Reference, slot: int, ids: np.ndarray, chunk: int, *plan: Plan | None) -> np.ndarray:
    """The logits of all tokens, appended to a sequence `chunk` at a time."""
    rows = []
    for start in range(0, len(ids), chunk):
        part, first = ids[start : start + chunk], engine.length(slot)
        rows.append(engine.forward(part, [slot] * len(part), range(first, first + len(part)), range(len(part)), *plan))
    return np.concatenate(rows)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(b.astype(np.float64)))


@each_case
def test_logits_are_those_of_peft(case: Case, base: Checkpoint, tmp_path: Path) -> None:
    """In one go and in steps on three threads, between steps of the model alone; and of the merged folder."""
    golden, (noise, check), ids = GOLDEN()[case.name], GOLDEN()[f"{case.name} about"], case.tokens
    assert int(check) == checksum(case), "the adapter changed: run tools/make_golden.py adapters"
    assert noise < 3e-6
    engine = Engine.load(base, spec_of(base), threads=3, kv_dtype="f32")
    plan = engine.add_adapter(read(base, case, tmp_path / "adapter"))
    alone = feed(engine, engine.open(), ids, len(ids))
    assert relative(alone, golden) > 0.05
    assert relative(feed(engine, engine.open(), ids, len(ids), plan), golden) <= TOLERANCE
    a, b, found = engine.open(), engine.open(), []
    for i, token in enumerate(ids):
        found += [engine.forward([token], [slot], [i], [0], used) for slot, used in ((a, plan), (b, None))]
    assert relative(np.concatenate(found[0::2]), golden) <= TOLERANCE
    assert relative(np.concatenate(found[1::2]), alone) <= TOLERANCE
    engine.close()

    merge_folder(base.folder, tmp_path / "adapter", tmp_path / "merged")
    with Checkpoint.open(tmp_path / "merged") as checkpoint:
        engine = Engine.load(checkpoint, spec_of(checkpoint), threads=1)
        assert relative(feed(engine, engine.open(), ids, len(ids)), golden) <= TOLERANCE
        engine.close()


@pytest.mark.parametrize("case", [BY_NAME[n] for n in ("dora_saved", "phi3", "tied_dora")], ids=lambda case: case.name)
@pytest.mark.parametrize("format", ["q8", "q4"])
def test_packed_weights_stay_packed(case: Case, format: str, base: Checkpoint, tmp_path: Path) -> None:
    """As the reference computes the same program, in one go and in steps; the base's matrices are not unpacked."""
    engine = Engine.load(base, spec_of(base), format=format, threads=2, kv_dtype="f32")
    adapter = read(base, case, tmp_path / "adapter")
    plan = engine.add_adapter(adapter)
    shared = {name: weight for name, weight in plan.program.weights.items() if name in engine.program.weights}
    assert len(shared) >= len(engine.program.weights) - 2
    for name, weight in shared.items():
        if name not in adapter.tensors:
            assert np.shares_memory(weight.data, engine.program.weights[name].data), f"{name} was copied"
    ids = case.tokens
    reference = Reference(plan.program, adapter.spec)
    expected = feed(reference, reference.open(), ids, len(ids))
    bound = SLACK * np.sqrt(4 * len(engine.spec.layers) + 1) * INT8
    assert relative(feed(engine, engine.open(), ids, len(ids), plan), expected) <= bound
    assert relative(feed(engine, engine.open(), ids, 1, plan), expected) <= bound
    if format == "q8":  # whose weights are rounded as finely as the activations: as much error again
        assert relative(feed(engine, engine.open(), ids, len(ids), plan), GOLDEN()[case.name]) <= bound * 2**0.5
    assert relative(feed(engine, engine.open(), ids, len(ids)), expected) > 3 * bound
    engine.close()


def test_a_group_of_products_costs_one_barrier_more(tmp_path: Path) -> None:
    """q, k and v do not wait for each other, and neither do their changes; gate and up share the first half."""
    case = BY_NAME["phi3"]
    with Checkpoint.open(write_base(case, tmp_path / "base")) as checkpoint:
        spec, adapter = spec_of(checkpoint), read(checkpoint, case, tmp_path / "adapter")
        rows = build_program(spec, checkpoint.weight, "f32", 64, adapter).rows
        alone = build_program(spec, checkpoint.weight, "f32", 64).rows
    names = [str(row.values.get("w")) for row in rows if row.label.startswith("layer 0 gate") and "lora" in row.label]
    assert [name.rpartition(" lora ")[2] for name in names] == ["a", "b"]
    count = [sum(row.barrier == 1 for row in found) for found in (rows, alone)]
    assert count[0] - count[1] == len(spec.layers) * 4  # qkv, o, gate and up, down
