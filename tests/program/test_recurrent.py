"""The reference executor against transformers' golden logits, for models with recurrent states."""

from pathlib import Path

import numpy as np
import pytest
from golden.recipe import BY_NAME, load, token_ids, write_folder
from golden.recurrent import CONFIGS

from lepton_edge.checkpoint.store import Checkpoint
from lepton_edge.errors import RequestError
from lepton_edge.models.registry import spec_of
from lepton_edge.program import build_program
from lepton_edge.program.recurrent import blocked, unblocked
from lepton_edge.program.reference import Reference


def reference(name: str, folder: Path) -> Reference:
    with Checkpoint.open(write_folder(name, folder / name)) as checkpoint:
        spec = spec_of(checkpoint)
        return Reference(build_program(spec, checkpoint.weight, "f32", spec.context), spec)


@pytest.mark.parametrize("name", CONFIGS)
def test_reference_reproduces_transformers(name: str, tmp_path: Path) -> None:
    """In two runs. The noise is the distance of transformers' float32 from its float64 run; parameters round too."""
    run, ids, stored = reference(name, tmp_path), token_ids(BY_NAME[name]), load(name)
    slot = run.open()
    parts = [run.forward(ids[a:b], [slot] * (b - a), range(a, b), range(b - a)) for a, b in ((0, 19), (19, len(ids)))]
    off = np.linalg.norm(np.concatenate(parts) - stored["logits"]) / np.linalg.norm(stored["logits"])
    assert off <= 2 * float(stored["noise"]) + 2e-7


def test_a_run_may_be_repeated_and_a_state_not_cut(tmp_path: Path) -> None:
    run = reference("mamba_odd", tmp_path)
    slot, ids = run.open(), [3, 5, 7]
    run.forward(ids, [slot] * 3, range(3), [])
    batch = ([11, 13], [slot] * 2, [3, 4], [1])
    for _ in range(2):
        run.run_until(run.program.logits_rows, *batch)
    found = run.buffer("logits")
    assert np.allclose(found, run.forward(*batch), rtol=1e-6)
    with pytest.raises(RequestError, match="keeps a state"):
        run.truncate(slot, 2)
    run.truncate(slot, 0)
    assert np.allclose(run.forward([*ids, *batch[0]], [slot] * 5, range(5), [4]), found, rtol=1e-6)


def test_blocks_of_channels() -> None:
    values = np.arange(35 * 3, dtype=np.float32).reshape(35, 3)
    made = blocked(values)
    assert made.size == 64 * 3 and made[32] == values[0, 1] and made[96] == values[32, 0] and made[3 + 96] == 0
    assert np.array_equal(unblocked(made, 35, 3), values)
