"""Every CUDA kernel compiled, without a GPU, for two kinds of them; and that the PTX has the instructions meant.

Skipped where numba-cuda or its compiler is not installed: `pip install 'lepton-edge[cuda]'`.
"""

import json
from importlib.util import find_spec

import pytest
from processes import run_python

pytestmark = pytest.mark.skipif(
    find_spec("numba_cuda") is None or find_spec("cuda") is None, reason="needs the extra `cuda`: numba-cuda"
)

PROGRAM = """
import json, sys
from lepton_edge.kernels.cuda.build import factories, link, to_ptx
arch, found = sys.argv[1], {}
for op, factory in factories().items():
    ptx = to_ptx(op, factory(), arch)
    assert link(ptx, arch)[:4] == b"\\x7fELF", op
    found[op] = ptx
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def compiled() -> None:
    """No kernel of the CPU runs here: none is compiled."""


@pytest.fixture(scope="module", params=["80", "90"])
def every_ptx(request) -> tuple[str, dict[str, str]]:
    """(the compute capability, the PTX of every kernel)."""
    return request.param, json.loads(run_python("-c", PROGRAM, request.param))


def of(ptx: dict[str, str], *beginnings: str) -> dict[str, str]:
    found = {op: text for op, text in ptx.items() if op.startswith(beginnings)}
    assert found
    return found


@pytest.mark.slow
def test_products_are_the_tensor_cores(every_ptx) -> None:
    _, ptx = every_ptx
    for format in ("q4", "q8"):
        for op in ("matmul", "gated"):
            for shape in ("1", "2", "4", "8", "wide"):
                text = ptx[f"{op}_{format}_{shape}"]
                assert "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32" in text
                assert "ld.global.nc.v2.b32" in text, "weights are read eight bytes a lane"
    for format in ("f32", "f16", "bf16"):
        for shape in ("2", "wide"):
            assert "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32" in ptx[f"matmul_{format}_{shape}"]
        assert "ld.global.nc.v4.b32" in ptx[f"matmul_{format}_few1"]


@pytest.mark.slow
def test_attention_is_the_tensor_cores(every_ptx) -> None:
    _, ptx = every_ptx
    for op, text in of(ptx, "attention_wide", "attention_split").items():
        assert "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32" in text, op
        assert "ex2.approx.ftz.f32" in text and "shfl.sync.bfly.b32" in text, op
    for op, text in of(ptx, "attention_split").items():
        assert "atom.acq_rel.gpu.global.add.s32" in text, op


@pytest.mark.slow
def test_kernels_start_while_the_one_before_ends(every_ptx) -> None:
    """On GPUs that can; and what other kernels write is never read as if it were constant."""
    arch, ptx = every_ptx
    for op, text in ptx.items():
        waits = "griddepcontrol.wait" in text and "griddepcontrol.launch_dependents" in text
        assert waits == (arch == "90" and op != "probe_mma"), op


@pytest.mark.slow
def test_nothing_lies_in_local_memory(every_ptx) -> None:
    """But for the sums of the attention of any kind: a register array that is indexed at run time is slow."""
    _, ptx = every_ptx
    for op, text in ptx.items():
        if op not in ("attention_f16", "attention_f32", "attention_q8"):
            assert ".local" not in text, op
