"""The reference executor by itself: each op on numbers worked out by hand, and whole models against plain float64."""

import math

import numpy as np
import pytest
from engines import ODD, PLAIN, SPECS, Weights, feed, relative, tokens
from golden import naive

from lepton_edge.errors import RequestError
from lepton_edge.kernels.ops import ACTIVATIONS
from lepton_edge.kernels.ops import OPS as ALL_OPS
from lepton_edge.program import Row, build_program
from lepton_edge.program.reference import ACTIVATION, OPS, Reference, quantize_groups, rotate, to_cache


def make(spec=PLAIN, format="f32", kv_dtype="f32") -> Reference:
    return Reference(build_program(spec, Weights(spec, format).weight, kv_dtype, spec.context), spec)


def test_every_op_is_there():
    assert OPS.keys() == ALL_OPS.keys()


@pytest.mark.parametrize("name", SPECS)
def test_logits_are_those_of_a_plain_decoder(name):
    """float64 on both sides, but for keys and values rounded to float32: 6e-8, amplified by the steep attention.

    The sequence is longer than the longest window, and than a page.
    """
    spec = SPECS[name]
    ids, run = tokens(140, spec), make(spec)
    weights = Weights(spec)
    expected = naive.forward(spec, {n: weights.weight(n).to_f32() for n in spec.tensors()}, ids)
    assert relative(feed(run, run.open(), ids), expected) <= 2e-6


@pytest.mark.parametrize("format,kv_dtype", [("f32", "f16"), ("q4", "f16")])
def test_chunks_and_batches_do_not_matter(format, kv_dtype):
    run, ids, more = make(ODD, format, kv_dtype), tokens(40, ODD), tokens(25, ODD, 1)
    whole, other = feed(run, run.open(), ids), feed(run, run.open(), more)
    assert relative(feed(run, run.open(), ids, 7), whole) <= 1e-7
    a, b = run.open(), run.open()
    slots, order = np.array([a, b] * 25 + [a] * 15), np.argsort([0, 1] * 25 + [0] * 15, kind="stable")
    both, positions = np.empty(65, np.int64), np.empty(65, np.int64)
    both[order], positions[order] = np.concatenate([ids, more]), np.concatenate([np.arange(40), np.arange(25)])
    logits = run.forward(both, slots, positions, np.arange(65))
    assert relative(logits[order], np.concatenate([whole, other])) <= 1e-7


def test_sequences_end_and_go_back():
    run, ids = make(format="q4"), tokens(20, PLAIN)
    a, b = run.open(), run.open()
    whole = feed(run, a, ids)
    assert feed(run, b, ids[:5], wanted=[]).shape == (0, 96)
    run.truncate(a, 8)
    assert run.length(a) == 8 and np.array_equal(feed(run, a, ids[8:]), whole[8:])
    run.close_slot(a)
    with pytest.raises(RequestError, match="sequence 0 is not open"):
        run.length(a)
    assert run.open() == a and run.length(a) == 0 and run.length(b) == 5
    assert np.array_equal(feed(run, a, ids), whole)
    with pytest.raises(RequestError, match="cannot truncate to 21"):
        run.truncate(a, 21)


def test_run_until_shows_any_buffer():
    run, ids = make(ODD, "q8"), tokens(6, ODD)
    slot = run.open()
    batch = (ids, [slot] * 6, range(6), [5])
    rows = [row.op for row in run.program.rows]
    run.run_until(1, *batch)
    assert np.array_equal(run.buffer("x"), run.weight(run.program.rows[0].values["w"])[ids])
    run.run_until(rows.index("rms_norm") + 1, *batch)
    assert run.buffer("h").shape == (6, 70) and run.length(slot) == 0
    # int8 groups of 32: each number is within half a step of what it stands for.
    h = run.buffer("h")
    steps = np.abs(np.pad(h, ((0, 0), (0, 26))).reshape(6, 3, 32)).max(2).repeat(32, axis=1)[:, :70] / 127
    assert (np.abs(run.buffer("h_records") - h) <= 0.5001 * steps).all()
    logits = run.forward(*batch)
    assert logits.shape == (1, 83) and logits.dtype == np.float32 and run.length(slot) == 6


def test_errors_are_the_engines():
    with pytest.raises(RequestError, match="token ids"):
        make().forward([96], [0], [0], [])


# -- single ops ---------------------------------------------------------------------------------------------------


def test_quantize_groups():
    """Two groups: steps 1 and 0.5; ties go to even; zeros stay zeros."""
    x = np.zeros((2, 40))
    x[0, :7] = 127, 0.5, 1.5, 2.5, -0.5, -3.49, 100.3
    x[0, 32:35] = -63.5, 0.75, 10.1
    expected = np.zeros((2, 40))
    expected[0, :7] = 127, 0, 2, 2, 0, -3, 100
    expected[0, 32:35] = -63.5, 1.0, 10.0
    assert np.array_equal(quantize_groups(x), expected)


def test_to_cache():
    assert to_cache(np.array([1e6, -1e6, 1 + 2**-11, 1 + 2**-10]), "f16").tolist() == [65504, -65504, 1, 1 + 2**-10]
    assert to_cache(np.array([1e6, 1 + 2**-11, 1 + 2**-25]), "f32").tolist() == [1e6, 1 + 2**-11, 1]
    assert np.isnan(to_cache(np.array([np.nan]), "f16")).all()


def test_rotate():
    """A quarter turn of the first pair, an eighth of the second; what lies behind `dim` stays."""
    angles = np.array([[math.pi / 2, math.pi / 4]])
    x = np.array([[[1.0, 2.0, 3.0, 0.0, 5.0]]])
    assert np.allclose(rotate(x, 4, np.cos(angles), np.sin(angles)), [[[-3, math.sqrt(2), 1, math.sqrt(2), 5]]])


def row_run(op, buffers, **values):
    run = make()
    run.buffers = {name: np.array(values, float) for name, values in buffers.items()}
    run.run_row(Row(op, values))
    return run


def test_rms_norm():
    run = make()
    run.program.params["w"] = np.array([1, 2, 0, 0], np.float32)
    run.buffers["x"] = np.array([[3.0, 4.0]])
    run.run_row(Row("rms_norm", dict(x="x", weight="w", bias=None, n=2, y="y", eps=0.5, accumulate=0, records="r")))
    expected = np.array([[3, 8]]) / math.sqrt(13)
    assert np.allclose(run.buffer("y"), expected) and np.allclose(run.buffer("r"), expected, rtol=0.01)


def test_layer_norm():
    """Mean 3, deviation 1; added to what is there."""
    run = make()
    run.program.params |= {"w": np.array([1, 2, 0, 0], np.float32), "b": np.array([5, 7, 0, 0], np.float32)}
    run.buffers = {"x": np.array([[2.0, 4.0]]), "y": np.array([[10.0, 20.0]])}
    values = dict(x="x", weight="w", bias="b", n=2, y="y", eps=0.0, accumulate=1, records=None)
    run.run_row(Row("layer_norm", values))
    assert np.allclose(run.buffer("y"), [[10 + 5 - 1, 20 + 7 + 2]])


@pytest.mark.parametrize(("name", "at_one"), [
    ("silu", 0.7310586), ("gelu", 0.8413447), ("gelu_tanh", 0.8411920), ("quick_gelu", 0.8457958), ("relu", 1),
    ("relu2", 1), ("clamped_swiglu", 0.8457958),
])  # fmt: skip
def test_activations(name, at_one):
    """Known values at 1, nothing at 0, about nothing far below; twice as much of relu is four times of its square."""
    x = ACTIVATION[name](np.array([1.0, 0.0, -30.0, 2.0]))
    assert np.allclose(x[:3], [at_one, 0, 0], atol=1e-7)
    assert x[3] == {"relu": 2, "relu2": 4}.get(name, x[3])


def test_limit():
    run = row_run("limit", dict(x=[[3.0, -1.0]]), x="x", limit=2.0, soft=0)
    assert np.allclose(run.buffer("x"), [[2, -1]])
    run = row_run("limit", dict(x=[[3.0, -1.0]]), x="x", limit=2.0, soft=1)
    assert np.allclose(run.buffer("x"), [[2 * math.tanh(1.5), -2 * math.tanh(0.5)]])


def test_activate():
    buffers = dict(g=[[0, 1, -800]], u=[[5, 2, 1]])
    run = row_run("activate", buffers, gate="g", up="u", y="g", activation=0, records=None)
    assert np.allclose(run.buffer("g"), [[0, 2 / (1 + math.exp(-1)), 0]])
    buffers = dict(g=[[1, 100, 100, -100]], u=[[2, 100, -100, 5]])  # clamped: 7 x 8, 7 x -6
    clamped = ACTIVATIONS.index("clamped_swiglu")
    run = row_run("activate", buffers, gate="g", up="u", y="g", activation=clamped, records=None)
    seven = 7 / (1 + math.exp(-1.702 * 7))
    assert np.allclose(run.buffer("g"), [[3 / (1 + math.exp(-1.702)), seven * 8, seven * -6, 0]])


def test_attention():
    """One key head, two query heads; a window of two; scores log 3 apart weigh 1 : 3."""
    run = make()
    run.batch = (np.zeros(2), np.array([4, 4]), np.array([1, 2]), np.zeros(0))
    keys = np.array([[[0.0]], [[1.0]], [[2.0]]])
    run.cache[4, 7] = keys, np.array([[[100.0]], [[10.0]], [[20.0]]])
    run.buffers["q"] = np.array([[math.log(3), 0], [math.log(3), 0]])
    values = dict(q="q", y="y", heads=2, kv_heads=1, head_dim=1, scale=1.0, window=2, layer=7, records="records",
                  q_step=2, cap=0.0, slopes=None)  # fmt: skip
    run.run_row(Row("attention_f32", values))
    assert np.allclose(run.buffer("y"), [[32.5, 55.0], [17.5, 15.0]])
    assert np.array_equal(run.buffer("records"), quantize_groups(run.buffer("y")))
    # A sink whose weight is that of all positions together takes half; one far below takes nothing.
    run.program.params["sinks"] = np.array([math.log(9 + 3), -80, 0, 0], np.float32)
    run.run_row(Row("attention_f32", values | dict(sinks="sinks")))
    assert np.allclose(run.buffer("y"), [[32.5 * 4 / 16, 55.0], [17.5 / 2, 15.0]])
