"""The whole CUDA executor on Numba's simulator, which runs the kernels' plain paths: against the reference, and against
the CPU's executor for what only some models have."""

import pytest
from engines import tolerance
from processes import run_python

from lepton_edge.kernels.machine import choose

HERE = __file__.rpartition("/")[0]
DECODERS = [
    ("plain", "f32", "f32"), ("plain", "bf16", "f32"), ("odd", "q4", "f16"), ("odd", "f16", "f16"),
    ("windows", "q8", "f16"), ("windows", "f32", "q8"),
]  # fmt: skip
# Of each kind what the decoders above lack: caps, slopes, sinks, norms of heads and embeddings, other activations and
# positions; sight of the whole sequence, distances, terms, pools; memories; and ops that stay with the CPU.
STORED = [
    ("family", "gemma2", "bloom_odd"), ("family", "gpt_oss", "phi_norms"), ("encoder", "bert_mask", "modernbert_mean"),
    ("encoder", "deberta_plain"), ("pair", "t5"), ("llama", "mamba_odd"),
]  # fmt: skip


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
