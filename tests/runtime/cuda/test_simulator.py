"""The whole CUDA executor on Numba's simulator, which runs the kernels' plain paths: against the reference, and against
the CPU's executor for what only some models have."""

import pytest
from engines import tolerance
from processes import run_python

from lepton_edge.kernels.machine import choose

HERE = __file__.rpartition("/")[0]
DECODERS = [
    ("tiny", "bf16", "f32"), ("tiny", "q4", "f16"), ("tiniest", "q8", "q8"), ("tiniest", "f16", "f16"),
]  # fmt: skip
# Of each kind what the decoders above lack: caps, slopes, sinks, norms of heads and embeddings, other activations and
# positions; sight of the whole sequence, distances, terms, pools; memories; and ops that stay with the CPU.
STORED = [
    ("family", "gemma2", "bloom_odd", "gpt_oss"), ("encoder", "modernbert_mean", "deberta_plain"),
    ("pair", "t5"), ("adapter", "patterns"),
]  # fmt: skip


TOLD = """
import sys, tempfile
from pathlib import Path
from golden import recipe
from runtime.cuda import on_cuda
from lepton_edge.checkpoint import Checkpoint
from lepton_edge.models.registry import spec_of
root = tempfile.TemporaryDirectory()
with Checkpoint.open(recipe.write_folder("mamba_plain", Path(root.name) / "m")) as held:
    on_cuda.engine_for("cuda").load(held, spec_of(held), threads=1, notify=print)
"""


def simulated(*arguments: str) -> list[list[str]]:
    """What `on_cuda.py` prints, in words."""
    said = run_python(f"{HERE}/on_cuda.py", *arguments, NUMBA_ENABLE_CUDASIM="1")
    return [line.split() for line in said.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("case", DECODERS, ids="-".join)
def test_a_decoder_is_the_reference(case: tuple[str, str, str]) -> None:
    _, format, kv = case
    ((error, summary),) = simulated("decoder", *case)
    assert float(error) <= tolerance(format, kv, choose(None))
    assert summary == "True"


@pytest.mark.slow
@pytest.mark.parametrize("case", STORED, ids=lambda case: case[1])
def test_a_model_is_what_it_is_on_the_cpu(case: tuple[str, ...]) -> None:
    """f32: both executors' sums differ in their order alone."""
    for name, error in simulated(*case):
        assert float(error) <= 1e-5, name


@pytest.mark.slow
def test_what_stays_with_the_cpu_is_said() -> None:
    """Experts and states have no kernels yet."""
    said = run_python("-c", TOLD, NUMBA_ENABLE_CUDASIM="1")
    assert "no CUDA kernel yet for short_conv" in said and "run on the CPU" in said
