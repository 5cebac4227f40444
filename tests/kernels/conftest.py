"""All kernels are compiled before the first test, for every instruction set: together it takes half as long."""

import pytest
from kernels.harness import ISAS

from lepton_edge.kernels.library import kernels
from lepton_edge.kernels.ops import OPS


@pytest.fixture(scope="session", autouse=True)
def compiled() -> None:
    for isa in ISAS:
        kernels([*OPS, "walk"], isa)
