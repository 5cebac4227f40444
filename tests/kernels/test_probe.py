"""Probes do all of the work that they are timed for: what they compute says so."""

import numpy as np
import pytest
from kernels.harness import ISAS, Memory

from lepton_edge.kernels.layout import PROBE_BYTES
from lepton_edge.kernels.library import callable_kernel, kernels
from lepton_edge.kernels.machine import instruction_set


@pytest.fixture(params=ISAS)
def isa(request):
    return request.param


def run(isa, op, operands, count, address=0):
    """The probe's result, the first 64 bytes of its memory."""
    memory = Memory()
    given = memory.array(operands.view(np.uint8))
    assert given.size == PROBE_BYTES
    callable_kernel(kernels([op], isa)[op])(given.ctypes.data, count, address)
    memory.check()
    return given[:64]


def test_fma(isa):
    """Each chain adds a * b a turn; whole numbers below 2^24, so all sums are exact."""
    operands = np.zeros(PROBE_BYTES // 4, np.float32)
    operands[:16], operands[16:32] = np.arange(16), 3
    chains = instruction_set(isa).chains
    found = run(isa, "probe_fma", operands, 7).view(np.float32)
    assert np.array_equal(found, chains * 7 * 3 * np.arange(16))


def test_dot(isa):
    """Each chain adds a group product a turn: eight of the nine pairs of three registers on each side.

    The probe adds its chains up as if they were floats.  Sums k below 2^23 are then the denormal floats k * 2^-149,
    which add up as whole numbers do.
    """
    rng = np.random.default_rng(1)
    operands = np.empty((6, 64), np.uint8)
    operands[:3], operands[3:] = rng.integers(0, 16, (3, 64)), rng.integers(0, 128, (3, 64))
    weights, x = operands[:3].astype(int).reshape(3, 16, 4), operands[3:].astype(int).reshape(3, 16, 4)
    once = sum((weights[w] * x[v]).sum(axis=1) for w, v in [(w, v) for w in range(3) for v in range(3)][:8])
    turns, chains = 5, instruction_set(isa).chains
    found = run(isa, "probe_dot", operands.reshape(-1), turns).view(np.int32)
    assert np.array_equal(found, chains * turns * once)


def test_read(isa):
    """Every float is read once: the sum of whole numbers below 2^24, in any order, is exact."""
    memory = Memory()
    values = memory.array(np.random.default_rng(2).integers(0, 1000, (96, 16)).astype(np.float32))
    operands = np.zeros(PROBE_BYTES // 4, np.float32)
    operands[:16] = np.arange(16)
    found = run(isa, "probe_read", operands, values.nbytes, values.ctypes.data).view(np.float32)
    assert np.array_equal(found, 4 * np.arange(16) + values.sum(axis=0))
