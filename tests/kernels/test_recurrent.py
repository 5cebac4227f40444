"""Ops with a state beside each sequence, and what is around them, against their definitions in NumPy.

Three sequences lie interleaved in two batches; the second goes on with the states that the first one left.
"""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from kernels.harness import ISAS, Rig, U, check_records, pad, record_bytes

from lepton_edge.kernels.ops import OPS
from lepton_edge.program import recurrent
from lepton_edge.program.recurrent import blocked

each_isa = pytest.mark.parametrize("isa", ISAS)
each_threads = pytest.mark.parametrize("threads", [1, 3])
# Two batches: slots and positions of their tokens.
BATCHES = (
    ([1, 0, 1, 2, 0, 1, 1, 0, 1], [0, 0, 1, 0, 1, 2, 3, 2, 4]),
    ([2, 2, 0, 1, 2], [1, 2, 3, 5, 3]),
)
TOKENS = sum(len(slots) for slots, _ in BATCHES)
PLACE = 256  # bytes of other rows' states before the one that is tested
EXP = 2e-7  # the relative error of exp and exp2, at most


def normal(seed: Any, *shape: int, scale: float = 1.0) -> np.ndarray:
    seed = [ord(c) if isinstance(c, str) else c for c in (seed if isinstance(seed, tuple | list | str) else (seed,))]
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


@dataclass
class Case:
    """A row: activations float32 [TOKENS, n] by field, parameters, numbers, and which activations it writes."""

    op: str
    activations: dict[str, np.ndarray]
    params: dict[str, np.ndarray] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("y",)
    state: int = 0  # floats
    records: str = ""  # the activation that is quantized
    absent: tuple[str, ...] = ()  # fields that are None

    def values(self, operand: Any) -> dict[str, Any]:
        """The row's values; `operand(field)` gives an array's stand-in."""
        values = {name: operand(name) for name in (*self.activations, *self.params)}
        values |= self.numbers | dict.fromkeys(self.absent)
        if "state" in dict(OPS[self.op].fields):
            values["state"] = PLACE
        for name, _ in OPS[self.op].fields:
            if name in ("ld", "ldx", "ldy", "lddt", "ldg", "ldbc", "ldz") and name not in values:
                of = {"ld": "y", "ldx": "x", "ldy": "y", "lddt": "dt", "ldg": "gate", "ldbc": "bc", "ldz": "z"}[name]
                of = of if of in self.activations else "decay"
                values[name] = pad(self.activations[of].shape[1])
            if name == "records":
                values[name] = operand(name) if self.records else None
        return values

    def expected(self, *, magnitudes: bool = False) -> dict[str, np.ndarray]:
        """The outputs, float64 [TOKENS, n], from the definition; `magnitudes`: of the absolute values of all inputs."""
        wide = {name: values.astype(np.float64) for name, values in self.activations.items()}
        if magnitudes:
            wide = {name: np.abs(values) for name, values in wide.items()}
        found: dict[str, list[np.ndarray]] = {name: [] for name in self.outputs}
        run = Stand(self.params, magnitudes)
        start = 0
        for slots, positions in BATCHES:
            here = slice(start, start + len(slots))
            run.begin(slots, positions, {name: values[here] for name, values in wide.items()})
            recurrent.OPS[self.op](run, self.values(lambda name: name))  # type: ignore[arg-type]
            for name in self.outputs:
                found[name].append(run.buffers[name])
            start += len(slots)
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def run(self, isa: str, threads: int = 1) -> dict[str, np.ndarray]:
        """The outputs, float32 [TOKENS, n], from the kernel; states begin as NaN, records are checked."""
        found: dict[str, list[np.ndarray]] = {name: [] for name in self.outputs}
        states, start = None, 0
        for slots, positions in BATCHES:
            rig = Rig(isa, len(slots), slots=slots, positions=positions)
            if states is None:
                states = rig.memory.bytes(3 * (PLACE + 4 * self.state)).reshape(3, -1)
                states[:] = 0xFF
            rig.states = np.array([state.ctypes.data for state in states])
            rows = {name: rig.memory.padded(values[start : start + len(slots)])
                    for name, values in self.activations.items()}  # fmt: skip
            params = {name: rig.memory.array(np.pad(v, (0, -v.size % 32))) for name, v in self.params.items()}
            if self.records:
                rows["records"] = rig.memory.bytes(record_bytes(len(slots), self.activations[self.records].shape[1]))
            operands = rows | params
            rig.row(self.op, **self.values(operands.__getitem__)).run(threads)
            assert (states[:, :PLACE] == 0xFF).all(), "wrote into another row's states"
            for name, values in self.activations.items():
                n = values.shape[1]
                assert not rows[name][:, n:].any(), f"{name}: wrote padding"
                if name not in self.outputs:
                    assert np.array_equal(rows[name][:, :n], values[start : start + len(slots)], equal_nan=True)
            if self.records:
                check_records(rows["records"], isa, rows[self.records])
            for name in self.outputs:
                found[name].append(rows[name][:, : self.activations[name].shape[1]])
            start += len(slots)
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def check(self, isa: str, threads: int, error: float) -> None:
        """The kernel's outputs are off by `error` times what the magnitudes of all inputs give, at most."""
        found, expected, sizes = self.run(isa, threads), self.expected(), self.expected(magnitudes=True)
        for name in self.outputs:
            off = np.abs(found[name] - expected[name])
            assert (off <= error * np.abs(sizes[name]) + 1e-37).all(), (name, (off / np.abs(sizes[name])).max())
        if threads > 1:
            for name, alone in self.run(isa).items():
                assert np.array_equal(found[name], alone)


class Stand:
    """What the definitions see of the reference executor."""

    def __init__(self, params: dict[str, np.ndarray], magnitudes: bool) -> None:
        signed = ("a", "decay", "first", "bias") if magnitudes else tuple(params)  # exponents keep their sign
        self.params = {name: v if name in signed else np.abs(v) for name, v in params.items()}
        self.program = SimpleNamespace(params=self.params)
        self.states: dict[tuple[int, int], dict[int, np.ndarray]] = {}
        self.lengths: dict[int, int] = {}
        self.buffers: dict[str, np.ndarray] = {}

    def begin(self, slots: list[int], positions: list[int], buffers: dict[str, np.ndarray]) -> None:
        self.batch = (None, np.array(slots), np.array(positions), None)
        self.lengths = {slot: positions[slots.index(slot)] for slot in set(slots)}
        self.buffers = dict(buffers)

    def buffer(self, name: str) -> np.ndarray:
        return self.buffers[name]

    def param(self, name: str, size: int) -> np.ndarray:
        return self.params[name][:size].astype(np.float64)

    def put(self, name: str, value: np.ndarray) -> None:
        self.buffers[name] = value

    def put_records(self, name: str | None, value: np.ndarray) -> None:
        pass


# -- convolution ------------------------------------------------------------------------------------------------------


def conv(n: int, taps: int, kind: str) -> Case:
    """As Lfm2 has it (two gates) or Mamba (a bias and silu)."""
    params = {"weight": blocked(normal((n, taps), n, taps))}
    if kind == "silu":
        return Case("short_conv", dict(x=normal(n, TOKENS, 2 * n + 5), y=np.full((TOKENS, n), 7, np.float32)),
                    params | {"bias": normal((n, 1), n)},
                    dict(at=5, gate_in=-1, gate_out=-1, silu=1, n=n, taps=taps),
                    state=(taps - 1) * pad(n), records="y" if n % 2 else "")  # fmt: skip
    return Case("short_conv", dict(x=normal(n, TOKENS, 3 * n), y=np.full((TOKENS, n), 7, np.float32)), params,
                dict(at=2 * n, gate_in=0, gate_out=n, silu=0, n=n, taps=taps), absent=("bias",),
                state=(taps - 1) * pad(n), records="y" if n % 2 == 0 else "")  # fmt: skip


@each_isa
@each_threads
@pytest.mark.parametrize("n,taps", [(1, 3), (33, 4), (64, 3), (100, 1), (144, 2), (48, 7)])
def test_gated_convolution(isa: str, threads: int, n: int, taps: int) -> None:
    """Two gates, and a sum of `taps` products: taps + 2 roundings of each, at most."""
    conv(n, taps, "gates").check(isa, threads, (taps + 3) * U)


@each_isa
@pytest.mark.parametrize("n,taps", [(1, 4), (31, 4), (64, 2)])
def test_convolution_with_silu(isa: str, n: int, taps: int) -> None:
    """silu changes by 1.1 times what its input does, at most; what it adds itself is relative."""
    case = conv(n, taps, "silu")
    found, expected = case.run(isa, 2)["y"], case.expected()["y"]
    x, weight = np.abs(case.activations["x"]), np.abs(case.params["weight"])
    largest = x.max() * weight.max() * taps + np.abs(case.params["bias"]).max()
    assert (np.abs(found - expected) <= 1.1 * (taps + 2) * U * largest + (EXP + 5 * U) * np.abs(expected)).all()


# -- scans ------------------------------------------------------------------------------------------------------------

LONGEST = 6  # tokens of a sequence: errors of the state add up over them
# A token's decay is off by EXP, by its exponent's error of 1e-6 (softplus) of itself, x e^-x < 0.4, and 3 roundings;
# its input and output by the step's 1e-6, the gate's EXP and 8 roundings.
SCAN = LONGEST * (EXP + 0.4e-6 + 4 * U) + 1e-6 + EXP + 8 * U


def selective(n: int, states: int, at: int) -> Case:
    return Case(
        "selective_scan",
        dict(x=normal(n, TOKENS, n), dt=normal((n, 1), TOKENS, n, scale=2), y=np.full((TOKENS, n), 7, np.float32),
             bc=normal((n, 2), TOKENS, at + 2 * states), z=normal((n, 3), TOKENS, 2 * n)),
        dict(a=blocked(-np.exp(normal((n, 4), n, states))), d=normal((n, 5), n)), dict(n=n, states=states, at=at),
        state=states * pad(n), records="y" if n % 2 else "",
    )  # fmt: skip


@each_isa
@each_threads
@pytest.mark.parametrize("n,states,at", [(1, 16, 1), (31, 5, 3), (64, 16, 4), (80, 1, 33)])
def test_selective_scan(isa: str, threads: int, n: int, states: int, at: int) -> None:
    """Steps and gates are the same in both runs of the definition, for the bound changes neither dt nor z."""
    case = selective(n, states, at)
    found, expected = case.run(isa, threads)["y"], case.expected()["y"]
    bound = Case("selective_scan", case.activations | {name: np.abs(case.activations[name]) for name in ("x", "bc")},
                 case.params | {"d": np.abs(case.params["d"])}, case.numbers, state=case.state)  # fmt: skip
    # A sum over the states has a rounding for each.
    assert (np.abs(found - expected) <= (SCAN + states * U) * np.abs(bound.expected()["y"])).all()
    if threads > 1:
        assert np.array_equal(found, case.run(isa)["y"])


def heads(h: int, d: int, groups: int, states: int, high: float = np.inf) -> Case:
    n, each = h * d, groups * states
    return Case(
        "head_scan",
        dict(x=normal(n, TOKENS, n + 2 * each), dt=normal((n, 1), TOKENS, 2 * (n + each) + h),
             y=np.full((TOKENS, n), 7, np.float32)),
        dict(a=-np.exp(normal((n, 2), h)), d=normal((n, 3), h), bias=normal((n, 4), h)),
        dict(heads=h, head_dim=d, groups=groups, states=states, low=0.2 if high < np.inf else 0, high=high),
        state=h * states * pad(d),
    )  # fmt: skip


@each_isa
@each_threads
@pytest.mark.parametrize("h,d,groups,states", [(1, 8, 1, 3), (4, 64, 2, 16), (6, 24, 3, 5), (3, 40, 1, 9)])
@pytest.mark.parametrize("high", [np.inf, 0.7])
def test_head_scan(isa: str, threads: int, h: int, d: int, groups: int, states: int, high: float) -> None:
    case = heads(h, d, groups, states, high)
    found, expected = case.run(isa, threads)["y"], case.expected()["y"]
    n, each = h * d, 2 * groups * states
    assert case.activations["x"].shape[1] == n + each
    bound = Case("head_scan", case.activations | {"x": np.abs(case.activations["x"])},
                 case.params | {"d": np.abs(case.params["d"])}, case.numbers, state=case.state)  # fmt: skip
    # Where softplus meets a limit it may stop on either side of it: within its own error.
    assert (np.abs(found - expected) <= (SCAN + states * U) * bound.expected()["y"]).all()
    if threads > 1:
        assert np.array_equal(found, case.run(isa)["y"])


@each_isa
def test_softplus_over_the_whole_range(isa: str) -> None:
    """With A = 0, B = C = x = 1 and D = 0, y of a sequence's first token is softplus(dt) silu(z)."""
    n = 96
    dt = np.concatenate([np.linspace(-85, 85, n * TOKENS - 6), [0, -0.0, 1e-3, -1e-3, 1e4, 3e38]])
    case = Case(
        "selective_scan",
        dict(x=np.ones((TOKENS, n), np.float32), dt=dt.reshape(TOKENS, n).astype(np.float32),
             y=np.zeros((TOKENS, n), np.float32), bc=np.ones((TOKENS, 2), np.float32),
             z=np.full((TOKENS, 2 * n), 30, np.float32)),
        dict(a=blocked(np.full((n, 1), -1e9)), d=np.zeros(n, np.float32)), dict(n=n, states=1, at=0), state=n,
    )  # fmt: skip
    found = case.run(isa)["y"]
    expected = np.logaddexp(0, case.activations["dt"].astype(np.float64)) * 30
    where = np.isfinite(expected * np.float32(1)) & (expected < 3e38)
    assert (np.abs(found - expected)[where] <= (1e-6 + 4 * U) * expected[where]).all()


@each_isa
@pytest.mark.parametrize("n,parts", [(64, 1), (96, 2), (60, 3), (5, 5)])
def test_silu_rms(isa: str, n: int, parts: int) -> None:
    case = Case("silu_rms", dict(x=normal(n, TOKENS, n), gate=normal((n, 1), TOKENS, 2 * n + 3),
                                   y=np.zeros((TOKENS, n), np.float32)),
                dict(weight=normal((n, 2), n)), dict(n=n, parts=parts, eps=1e-5),
                records="y" if n > 60 else "")  # fmt: skip
    found, expected = case.run(isa, 2)["y"], case.expected()["y"]
    # Each gated number is off by EXP + 6 U; so is the root of their mean square, after n / parts + 8 roundings.
    assert (np.abs(found - expected) <= (2 * EXP + (n / parts / 2 + 20) * U) * np.abs(expected)).all()


# -- RWKV ---------------------------------------------------------------------------------------------------------


@each_isa
@each_threads
@pytest.mark.parametrize("n", [1, 64, 100])
def test_token_shift(isa: str, threads: int, n: int) -> None:
    """A difference has one rounding, in float32 as here."""
    case = Case("token_shift", dict(x=normal(n, TOKENS, n), y=np.zeros((TOKENS, n), np.float32)), state=pad(n))
    assert np.array_equal(case.run(isa, threads)["y"], case.expected()["y"].astype(np.float32))


@each_isa
@pytest.mark.parametrize("n", [31, 64])
def test_mix(isa: str, n: int) -> None:
    activations = dict(x=normal(n, TOKENS, n), d=normal((n, 1), TOKENS, n), y=np.zeros((TOKENS, n), np.float32))
    case = Case("mix", activations, dict(weight=normal((n, 2), n)), records="y" if n == 64 else "")
    case.check(isa, 2, 2 * U)


@each_isa
@pytest.mark.parametrize("n", [33, 64])
@pytest.mark.parametrize("logistic", [0, 1])
def test_squash(isa: str, n: int, logistic: int) -> None:
    y = normal(n, TOKENS, n, scale=4)
    y[0, :4] = 0, 100, -100, 1e-3
    case = Case("squash", dict(y=y), numbers=dict(n=n, logistic=logistic), records="y")
    found, expected = case.run(isa, 2)["y"], case.expected()["y"]
    assert (np.abs(found - expected) <= 5e-7 * np.abs(expected) + 1e-37).all()


@each_isa
def test_sigmoid_add(isa: str) -> None:
    case = Case("sigmoid_add", dict(gate=normal(1, TOKENS, 70), x=normal(2, TOKENS, 70), y=normal(3, TOKENS, 70)))
    found, expected = case.run(isa, 2)["y"], case.expected()["y"]
    x, y = case.activations["x"], case.activations["y"]
    assert (np.abs(found - expected) <= (EXP + 6 * U) * (np.abs(x) + np.abs(y))).all()


def wkv4(n: int, shift: float = 0.0) -> Case:
    values = {name: normal((n, i), TOKENS, n, scale=2) for i, name in enumerate("rkv")}
    values["k"] += np.float32(shift)
    return Case("wkv4", values | {"y": np.zeros((TOKENS, n), np.float32)},
                dict(decay=-np.exp(normal((n, 4), n)), first=normal((n, 5), n)), state=3 * pad(n),
                records="y" if n % 2 == 0 else "")  # fmt: skip


@each_isa
@each_threads
@pytest.mark.parametrize("n,shift", [(1, 0), (33, -300), (64, 0), (96, 400)])
def test_wkv4(isa: str, threads: int, n: int, shift: float) -> None:
    """Keys far from 0 too: only their differences count.

    Exponents are sums of numbers up to |shift| + 10, each off by U of it; the means change by that much of the largest
    value, and by EXP and 4 roundings for each token.
    """
    case = wkv4(n, shift)
    found, expected = case.run(isa, threads)["y"], case.expected()["y"]
    error = LONGEST * (2 * EXP + 8 * U + 4 * (abs(shift) + 10) * U)
    assert (np.abs(found - expected) <= error * np.abs(case.activations["v"]).max()).all()
    if threads > 1:
        assert np.array_equal(found, case.run(isa)["y"])


def wkv7_inputs(h: int, d: int, first: bool) -> Case:
    n = h * d
    names = ("decay", "k", "a", "kk", "v", *(() if first else ("v_first", "mix")))
    outputs = ("decay", "k", "a", "kk", *(() if first else ("v",)))
    return Case("wkv7_inputs", {name: normal((n, i), TOKENS, n, scale=2) for i, name in enumerate(names)},
                dict(k_k=normal((n, 8), n), k_a=normal((n, 9), n)), dict(heads=h, head_dim=d), outputs=outputs,
                absent=("v_first", "mix") if first else ())  # fmt: skip


@each_isa
@pytest.mark.parametrize("h,d,first", [(1, 8, True), (3, 64, False), (5, 24, False)])
def test_wkv7_inputs(isa: str, h: int, d: int, first: bool) -> None:
    """Sigmoids are off by EXP and 3 roundings, decays by as much of their exponent, unit vectors by d / 2 + 8 more."""
    case = wkv7_inputs(h, d, first)
    found, expected = case.run(isa, 2), case.expected()
    sizes = {"decay": 1.0, "kk": 1.0, "a": 1.0, "k": 8 * np.abs(case.activations["k"]).max(),
             "v": 3 * np.abs(normal((h * d, 4), TOKENS, h * d, scale=2)).max()}  # fmt: skip
    for name in case.outputs:
        assert (np.abs(found[name] - expected[name]) <= (2 * EXP + (d / 2 + 12) * U) * sizes[name]).all(), name


def wkv7(h: int, d: int) -> Case:
    n = h * d
    values = {name: normal((n, i), TOKENS, n) for i, name in enumerate(("r", "decay", "k", "v", "kk", "a"))}
    values["decay"] = 1 / (1 + np.exp(-values["decay"]))
    values["kk"] /= np.float32(np.sqrt(d))
    values["a"] /= np.float32(np.sqrt(d))
    return Case("wkv7", values | {"y": np.zeros((TOKENS, n), np.float32)}, numbers=dict(heads=h, head_dim=d),
                state=h * d * pad(d))  # fmt: skip


@each_isa
@each_threads
@pytest.mark.parametrize("h,d", [(1, 8), (3, 64), (5, 24)])
def test_wkv7(isa: str, threads: int, h: int, d: int) -> None:
    """A token's state has the roundings of d products and 5 more; all later tokens keep a part of them."""
    case = wkv7(h, d)
    found, expected = case.run(isa, threads)["y"], case.expected()["y"]
    bound = Case("wkv7", {name: np.abs(v) for name, v in case.activations.items()}, numbers=case.numbers,
                 state=case.state)  # fmt: skip
    bound.activations["a"] = -bound.activations["a"]  # so that what is removed adds
    error = (LONGEST * (d + 6) + d) * U
    assert (np.abs(found - expected) <= error * bound.expected()["y"]).all()
    if threads > 1:
        assert np.array_equal(found, case.run(isa)["y"])


@each_isa
@pytest.mark.parametrize("h,d", [(2, 8), (3, 64), (5, 24)])
def test_wkv7_output(isa: str, h: int, d: int) -> None:
    n = h * d
    case = Case("wkv7_output", {name: normal((n, i), TOKENS, n) for i, name in enumerate(("y", "r", "k", "v", "gate"))},
                {name: normal((n, 9, i), n) for i, name in enumerate(("r_k", "weight", "bias"))},
                dict(heads=h, head_dim=d, eps=64e-5), records="y" if n % 32 == 0 else "")  # fmt: skip
    found, expected = case.run(isa, 2)["y"], case.expected()["y"]
    wide = {name: np.abs(v.astype(np.float64)) for name, v in (case.activations | case.params).items()}
    own = (wide["r"] * wide["k"] * wide["r_k"]).reshape(TOKENS, h, d).sum(2).repeat(d, axis=1) * wide["v"]
    # A normed number is sqrt(d) at most; sums of d numbers have d roundings.
    size = (np.sqrt(d) * wide["weight"] + wide["bias"] + own) * wide["gate"]
    assert (np.abs(found - expected) <= (2 * d + 20) * U * size).all()


# -- what is not finite ---------------------------------------------------------------------------------------------


@each_isa
@pytest.mark.parametrize("make", [
    lambda: conv(64, 3, "gates"), lambda: selective(64, 4, 3), lambda: heads(2, 32, 1, 4), lambda: wkv4(64),
    lambda: wkv7(2, 32),
])  # fmt: skip
def test_nan_stays_in_its_sequence(isa: str, make: Any) -> None:
    """Token 1 is the first of sequence 0: all that follows in it becomes NaN somewhere, and nothing in the others."""
    case = make()
    case.records = ""
    for values in case.activations.values():
        values[1] = np.nan
    found = case.run(isa)["y"]
    mine = np.array([slot == 0 for slots, _ in BATCHES for slot in slots])
    assert np.isnan(found[1]).any() and np.isfinite(found[~mine]).all()
