"""All kernels are compiled before the first test, for every instruction set: together it takes half as long."""

import os

import pytest
from kernels.harness import EMULATED, FOREIGN, ISAS

from lepton_edge.kernels.library import kernels
from lepton_edge.kernels.ops import OPS, PACKED, PROBES


@pytest.fixture(scope="session", autouse=True)
def compiled() -> None:
    """Processes of pytest-xdist begin at different instruction sets, so that none waits for what another compiles."""
    wanted = [(isa, [*OPS, "walk", *PROBES]) for isa in ISAS]
    products = [*(op for op in OPS if op.startswith(("matmul", "gated"))), "quantize", "walk"]
    wanted += [(isa, products) for isa in EMULATED]
    wanted += [(isa, [*(f"matmul_{format}" for format in PACKED), "quantize", "walk"]) for isa in FOREIGN]
    worker, workers = os.environ.get("PYTEST_XDIST_WORKER", "gw0"), os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")
    first = int(worker.removeprefix("gw")) * len(wanted) // int(workers)
    for isa, ops in wanted[first:] + wanted[:first]:
        kernels(ops, isa)
