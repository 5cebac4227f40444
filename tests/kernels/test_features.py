"""What the CPU can do, as the systems tell it; and that nothing is believed which they do not say."""

import ctypes

import pytest

from lepton_edge.kernels import features, machine
from lepton_edge.kernels.features import architecture, cpu_features

ALL = {"atomics", "asimddp", "i8mm"}
ATOMICS, ASIMDDP, I8MM = 1 << 8, 1 << 20, 1 << 13  # bits of HWCAP, HWCAP and HWCAP2 in Linux's headers


class System:
    """Stands for a function of a C library, which ctypes lets its user annotate."""

    def __init__(self, answer):
        self.answer = answer

    def __call__(self, *arguments):
        return self.answer(*arguments)


@pytest.mark.parametrize("hwcap,hwcap2,expected", [
    (0, 0, set()),
    (ATOMICS, 0, {"atomics"}),
    (ATOMICS | ASIMDDP, 0, {"atomics", "asimddp"}),
    (ATOMICS | ASIMDDP, I8MM, ALL),
    (~(ATOMICS | ASIMDDP), ~I8MM, set()),  # every other bit
    (I8MM, ASIMDDP, set()),  # the right bits in the wrong words
])  # fmt: skip
def test_linux(hwcap, hwcap2, expected):
    assert features._linux(System({16: hwcap, 26: hwcap2}.__getitem__)) == expected


@pytest.mark.parametrize("values,expected", [
    ({}, set()),
    ({"FEAT_LSE": 1, "FEAT_DotProd": 1, "FEAT_I8MM": 0}, {"atomics", "asimddp"}),
    ({"FEAT_LSE": 1, "FEAT_DotProd": 1}, {"atomics", "asimddp"}),
    ({"FEAT_LSE": 1, "FEAT_DotProd": 1, "FEAT_I8MM": 1}, ALL),
])  # fmt: skip
def test_macos(values, expected):
    """A name that the system does not know gives -1, and leaves what lies at the address alone."""

    def sysctlbyname(name, value, size, new, new_size):
        known = {f"hw.optional.arm.{k}".encode(): v for k, v in values.items()}
        assert size._obj.value == 4 and new is None and new_size == 0
        if name not in known:
            return -1
        ctypes.cast(value, ctypes.POINTER(ctypes.c_int))[0] = known[name]
        return 0

    assert features._macos(System(sysctlbyname)) == expected


def test_windows():
    assert features._windows(System({34, 43}.__contains__)) == {"atomics", "asimddp"}
    assert features._windows(System({34, 43, 66}.__contains__)) == ALL
    assert features._windows(System({66}.__contains__)) == {"i8mm"}


@pytest.mark.parametrize("here,has,expected", [
    ("aarch64", ALL, ("i8mm", "neon", "generic")),
    ("aarch64", {"atomics", "asimddp"}, ("neon", "generic")),
    ("aarch64", {"asimddp"}, ("generic",)),
    ("aarch64", {"atomics", "i8mm"}, ("generic",)),
    ("x86_64", {"avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe"}, ("avx2", "generic")),
    ("x86_64", {"avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt"}, ("generic",)),
    ("x86_64", ALL, ("generic",)),
    ("aarch64", {"avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe"}, ("generic",)),
    ("riscv64", set(), ("generic",)),
])  # fmt: skip
def test_an_instruction_set_is_offered_only_with_all_features_on_its_own_architecture(monkeypatch, here, has, expected):
    monkeypatch.setattr(machine, "architecture", lambda: here)
    monkeypatch.setattr(machine, "cpu_features", lambda: frozenset(has))
    assert machine.available.__wrapped__() == expected


AMX = {
    "avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl",
    "avx512vnni", "avx512bf16", "amx-tile", "amx-int8", "amx-bf16",
}  # fmt: skip


@pytest.mark.parametrize("answer,first", [(0, "amx"), (-1, "avx512bf16")])
def test_amx_needs_the_systems_consent(monkeypatch, answer, first):
    asked = []

    class Library:
        def syscall(self, *arguments):
            asked.append(arguments)
            return answer

    monkeypatch.setattr(machine, "architecture", lambda: "x86_64")
    monkeypatch.setattr(machine, "cpu_features", lambda: frozenset(AMX))
    monkeypatch.setattr(features.sys, "platform", "linux")
    monkeypatch.setattr(features.ctypes, "CDLL", lambda name: Library())
    assert machine.available.__wrapped__()[0] == first
    assert asked == [(158, 0x1023, 18)]  # arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILE_DATA
    monkeypatch.setattr(features.sys, "platform", "win32")
    assert machine.available.__wrapped__()[0] == "avx512bf16"


@pytest.mark.parametrize("triple,expected", [
    ("x86_64-unknown-linux-gnu", "x86_64"), ("amd64-portbld-freebsd14", "x86_64"),
    ("aarch64-unknown-linux-gnu", "aarch64"), ("aarch64-pc-windows-msvc", "aarch64"),
    ("arm64-apple-darwin23.1.0", "aarch64"), ("armv7l-unknown-linux-gnueabihf", "armv7l"),
])  # fmt: skip
def test_architecture(monkeypatch, triple, expected):
    monkeypatch.setattr("llvmlite.binding.get_process_triple", lambda: triple)
    assert architecture() == expected


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32", "freebsd14"])
def test_a_system_without_the_function_has_no_features(monkeypatch, platform):
    monkeypatch.setattr(features, "architecture", lambda: "aarch64")
    monkeypatch.setattr(features.sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    monkeypatch.setattr(ctypes, "windll", object(), raising=False)
    assert cpu_features() == frozenset()


def test_other_architectures_have_no_features(monkeypatch):
    monkeypatch.setattr(features, "architecture", lambda: "riscv64")
    assert cpu_features() == frozenset()
