"""All kernels are compiled before the first test, for every instruction set: together it takes half as long."""

import pytest
from kernels.harness import EMULATED, FOREIGN, ISAS

from lepton_edge.kernels.library import kernels
from lepton_edge.kernels.ops import OPS, PACKED, PROBES


@pytest.fixture(scope="session", autouse=True)
def compiled() -> None:
    for isa in ISAS:
        kernels([*OPS, "walk", *PROBES], isa)
    for isa in EMULATED:
        kernels([*(op for op in OPS if op.startswith(("matmul", "gated"))), "quantize", "walk"], isa)
    for isa in FOREIGN:
        kernels([*(f"matmul_{format}" for format in PACKED), "quantize", "walk"], isa)
