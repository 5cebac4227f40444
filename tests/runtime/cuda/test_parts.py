"""The parts of the CUDA executor that need no GPU: records, lazy logits, pages, and what is said without one."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import run_python

import lepton_edge
from lepton_edge.errors import MachineError, RequestError
from lepton_edge.kernels.layout import GROUP, RECORD
from lepton_edge.kernels.machine import available, instruction_set
from lepton_edge.program.reference import quantize_groups
from lepton_edge.program.summary import summarise
from lepton_edge.runtime.cuda.logits import Lazy, Logits
from lepton_edge.runtime.cuda.pages import CudaPages
from lepton_edge.runtime.cuda.records import from_device, to_device

WIDTHS = [tuple(width for width, _ in instruction_set(isa).tiles) for isa in available()]


def on_device(x: np.ndarray, room: int) -> np.ndarray:
    """The GPU's records of x [T, 32 g]: codes [room, 32 g], scales [g, room]."""
    tokens, columns = x.shape
    groups = columns // GROUP
    memory = np.zeros(room * groups * RECORD, np.uint8)
    top = np.abs(x.reshape(tokens, groups, GROUP)).max(axis=2)
    codes = np.rint(x.reshape(tokens, groups, GROUP) * (127 / top)[:, :, None]).astype(np.int8)
    memory[: room * columns].reshape(room, groups, GROUP)[:tokens] = codes.view(np.uint8)
    scales = memory[room * columns : room * (columns + 4 * groups)].view(np.float32).reshape(groups, room)
    scales[:, :tokens] = (top / 127).T
    return memory


@given(tokens=st.integers(1, 40), groups=st.integers(1, 5), widths=st.sampled_from(WIDTHS), seed=st.integers(0, 99))
def test_records_go_there_and_back(tokens: int, groups: int, widths: tuple[int, ...], seed: int) -> None:
    """Bytes are kept, and the CPU's form stands for the same numbers."""
    x, room = np.random.default_rng(seed).standard_normal((tokens, groups * GROUP)).astype(np.float32), 64
    device, back = on_device(x, room), np.zeros(room * groups * RECORD, np.uint8)
    records = np.zeros(tokens * groups * RECORD, np.uint8)
    from_device(device, records, tokens, groups, room, widths)
    to_device(records, back, tokens, groups, room, widths)
    assert np.array_equal(device, back)
    last = records[(tokens - 1) * groups * RECORD :] if tokens % widths[0] == 1 or tokens == 1 else None
    if last is not None and widths[-1] == 1:
        parts = last.reshape(groups, RECORD)
        codes, scales = parts[:, :GROUP].view(np.int8), parts[:, GROUP : GROUP + 4].copy().view(np.float32)
        assert np.allclose((codes * scales).reshape(-1), quantize_groups(x)[-1], rtol=1e-6)
        assert np.array_equal(parts[:, GROUP + 4 :].copy().view(np.int32)[:, 0], -8 * codes.sum(axis=1, dtype=np.int32))


def test_logits_are_fetched_when_they_are_used() -> None:
    whole, fetched = np.random.default_rng(1).standard_normal((2, 500)).astype(np.float32), []
    right = summarise(whole)

    def fetch() -> np.ndarray:
        fetched.append(1)
        return whole

    logits = Logits(fetch, right.ids, right.values)
    best = int(right.ids[1, 0])
    row = logits[1]
    assert logits[1, best] == whole[1, best] and not fetched
    assert row.max() == whole[1].max() and np.array_equal(row[3:9], whole[1, 3:9]) and row.size == 500
    assert logits[1, int(whole[1].argmin())] == whole[1].min()
    assert np.array_equal(np.flatnonzero(row >= 1), np.flatnonzero(whole[1] >= 1)) and len(logits) == 2
    assert np.array_equal(np.sort(row), np.sort(whole[1])) and np.array_equal(np.asarray(Lazy(fetch)), whole)
    assert len(fetched) == 2


class FakeDevice:
    """Hands out addresses, and remembers what was asked of it."""

    def __init__(self) -> None:
        self.next, self.said = 4096, []

    def allocate(self, nbytes: int) -> int:
        self.next += nbytes
        return self.next - nbytes

    def free(self, address: int) -> None:
        self.said.append(("free", address))

    def zero(self, address: int, nbytes: int) -> None:
        self.said.append(("zero", address, nbytes))

    def copy(self, target: int, source: int, nbytes: int) -> None:
        self.said.append(("copy", target, source, nbytes))


def test_pages_of_another_sequence_are_zeroed() -> None:
    """What it left may be NaN, and kernels read past the last position."""
    device = FakeDevice()
    pages = CudaPages(device, 1000, 1000, 3)  # type: ignore[arg-type]
    slot = pages.open()
    pages.reserve(slot, 200)
    first = pages.table[slot, :2].tolist()
    assert first == [4096, 5096] and not device.said
    pages.lengths[slot] = 200
    other = pages.fork(slot)
    pages.reserve(other, 201)
    assert device.said == [("copy", 6096, 5096, 1000)]
    pages.close(slot)
    pages.reserve(pages.open(), 10)
    assert device.said[1:] == [("zero", 5096, 1000)]
    pages.free()
    assert {said for said in device.said if said[0] == "free"} == {("free", at) for at in (4096, 5096, 6096)}


def test_a_device_that_is_not_known() -> None:
    with pytest.raises(RequestError, match="device='tpu': expected one of cpu, cuda"):
        lepton_edge.load("stories", device="tpu")
    with pytest.raises(RequestError, match="device is 3; expected a string"):
        lepton_edge.load("stories", device=3)  # type: ignore[arg-type]


def test_without_the_package(monkeypatch) -> None:
    from lepton_edge.runtime.cuda import device

    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(MachineError, match=r"needs the package numba-cuda .*pip install 'lepton-edge\[cuda\]'"):
        device.Device()


class Status(int):
    name = "CUDA_ERROR"


class Driver:
    """A driver whose calls give statuses."""

    def __init__(self, **statuses: int) -> None:
        self._statuses = statuses

    def __getattr__(self, name: str):
        if name == "cuInit" and self._statuses.get(name) == -1:
            raise RuntimeError("libcuda.so.1 was not found")
        return lambda *_: (Status(self._statuses.get(name, 0)), 0)


@pytest.mark.parametrize("statuses, said", [
    ({"cuInit": -1}, "no NVIDIA driver was found .*libcuda.*use the CPU"),
    ({"cuInit": 100}, "the driver sees no GPU .*nvidia-smi"),
    ({"cuInit": 0}, "the driver sees no GPU; look at `nvidia-smi` and CUDA_VISIBLE_DEVICES"),
])  # fmt: skip
def test_which_is_missing(monkeypatch, statuses: dict[str, int], said: str) -> None:
    from types import ModuleType

    from lepton_edge.runtime.cuda import device

    bindings = ModuleType("cuda.bindings")
    bindings.driver = Driver(**statuses)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    with pytest.raises(MachineError, match=said):
        device.Device()


def test_nothing_of_cuda_is_imported_for_the_cpu() -> None:
    program = """
import sys
before = set(sys.modules)  # numba-cuda, where it is installed, puts a small module into every process
import lepton_edge
lepton_edge.load("stories").close()
print("modules", *set(sys.modules) - before)
"""
    assert [name for name in run_python("-c", program).split() if "cuda" in name] == []
