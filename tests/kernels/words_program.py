"""Runs the words of one instruction set on arrays: python words_program.py ISA IN.npz OUT.npz (see test_words.py).

A process of its own, because the instruction set must be chosen before Numba is imported.
"""

import sys

import numpy as np
from llvmlite import ir

from lepton_edge.kernels import build

isa, source, target = sys.argv[1:]
build.prepare(isa)

from numba import njit  # noqa: E402

from lepton_edge.kernels.simd import words as w  # noqa: E402

jit = njit(nogil=True, boundscheck=False, error_model="numpy")  # as `words.jit`, but Python may call it
given, results = dict(np.load(source)), {}


def over(step, body):
    """Runs body(x address, y address) for every 16 elements; `step`: bytes of 16 of x, and of 16 of y."""
    dx, dy = step

    @jit
    def run(x, y, count):
        for i in range(count):
            body(x + i * dx, y + i * dy)

    return run


def apply(name, x, dtype, body, per=16):
    """results[name] = what `body` stores, `per` elements of dtype for each 16 of x."""
    blocks = x.size // 16
    y = np.zeros(blocks * per, dtype)
    over((16 * x.itemsize, per * y.itemsize), body)(x.ctypes.data, y.ctypes.data, blocks)
    results[name] = y


def unary(word):
    return jit(lambda x, y: w.store_f32(y, word(w.load_f32(x))))


def binary(word):
    """The first operand lies before the second, 16 floats each; two registers of x for one of y."""

    @jit
    def body(x, y):
        w.store_f32(y, word(w.load_f32(x), w.load_f32(x + 64)))

    return body


def pairs(name, word):
    x = given["pairs"]
    y = np.zeros(x.size // 2, np.float32)
    over((128, 64), binary(word))(x.ctypes.data, y.ctypes.data, x.size // 32)
    results[name] = y


f32, f16 = np.float32, np.uint16
apply("exp", given["exp"], f32, unary(w.exp))
apply("tanh", given["exp"] / 8, f32, unary(w.tanh))
apply("erf", given["exp"] / 16, f32, unary(w.erf))
apply("exp2", -np.abs(given["exp"]), f32, unary(w.exp2))
apply("load_i8", np.resize(np.arange(-128, 128), given["exp"].size).astype(np.int8), f32,
      jit(lambda x, y: w.store_f32(y, w.load_i8(x))))  # fmt: skip
apply("sqrt", given["exp"], f32, unary(w.sqrt))
apply("abs", given["floats"], f32, unary(w.vabs))
apply("widen_f16", given["halves"], f32, jit(lambda x, y: w.store_f32(y, w.load_f16(x))))
apply("widen_bf16", given["halves"], f32, jit(lambda x, y: w.store_f32(y, w.load_bf16(x))))
apply("narrow_f16", given["floats"], f16, jit(lambda x, y: w.store_f16(y, w.load_f32(x))))
apply("round_i8", given["small"], np.int8, jit(lambda x, y: w.store_i8(y, w.round_i32(w.load_f32(x)))))
apply("round_sum", given["rounds"], np.int32,
      jit(lambda x, y: w.put_i32(y, w.reduce_add_i32(w.round_i32(w.load_f32(x))))), per=1)  # fmt: skip
apply("reduce_add", given["floats"], f32, jit(lambda x, y: w.put_f32(y, w.reduce_add(w.load_f32(x)))), per=1)
apply("reduce_max", given["small"], f32, jit(lambda x, y: w.put_f32(y, w.reduce_max(w.load_f32(x)))), per=1)
apply("largest", given["floats"], f32, jit(lambda x, y: w.put_f32(y, w.largest(w.load_f32(x), w.load_f32(x)))), per=1)
for name, word in (("add", w.add), ("sub", w.sub), ("mul", w.mul), ("div", w.div), ("max", w.vmax), ("min", w.vmin)):
    pairs(name, word)
pairs("fma", jit(lambda a, b: w.fma(a, b, a)))


LANES = w.ISA.lanes


def at_native_width(name, x, y, step, emit):
    """results[name] = y, as `emit(isa, x address, y address)` stores it; `step`: bytes of x and of y for each call."""
    dx, dy, body = *step, w.word(emit, w.void, w.i64, w.i64)

    @jit
    def run(x, y, count):
        for i in range(count):
            body(x + i * dx, y + i * dy)

    run(x.ctypes.data, y.ctypes.data, x.nbytes // dx)
    results[name] = y


def two(isa, x):
    return isa.round_pairs(*(isa.load_row("f32", x, part) for part in (0, 4 * LANES)))


at_native_width("fp4", given["codes"], np.zeros(given["codes"].size, np.uint8), (64, 64),
                lambda isa, x, y: isa.store(y, 0, isa.fp4(isa.load_i32(x))))  # fmt: skip
floats, numbers = given["floats"], given["pairs"]
at_native_width("round_pairs", floats, np.zeros(floats.size, f16), (8 * LANES, 4 * LANES),
                lambda isa, x, y: isa.store(y, 0, two(isa, x)))  # fmt: skip
at_native_width("dot_bf16", numbers[: numbers.size // 80 * 80], np.zeros(numbers.size // 80 * 16, f32),
                (20 * LANES, 4 * LANES),
                lambda isa, x, y: isa.store(y, 0, isa.dot_bf16(
                    isa.load_row("f32", x), two(isa, isa.b.add(x, ir.Constant(ir.IntType(64), 4 * LANES))),
                    two(isa, isa.b.add(x, ir.Constant(ir.IntType(64), 12 * LANES))))))  # fmt: skip
at_native_width("sum_four", numbers, np.zeros(numbers.size // LANES, f32), (16 * LANES, 16),
                lambda isa, x, y: isa.store(y, 0, isa.sum_four(
                    *(isa.load_row("f32", x, 4 * LANES * i) for i in range(4)))))  # fmt: skip


@jit
def some(kind, x, y, n):
    if kind == 0:
        w.store_f32(y, w.load_f32_some(x, n))
    elif kind == 1:
        w.store_f32(y, w.load_f16_some(x, n))
    elif kind == 2:
        w.store_f32(y, w.load_bf16_some(x, n))
    else:
        w.store_f32_some(y, w.load_f32(x), n)


results["some"] = np.full((4, 20, 16), 7, f32)
for kind in range(4):
    for n in range(20):
        x = given["pairs"] if kind in (0, 3) else given["some_halves"]
        some(kind, x.ctypes.data, results["some"][kind, n].ctypes.data, n)


@jit
def within(x, y, base, low, high):
    w.store_f32(y, w.within(w.load_f32(x), base, low, high, np.float32(-5)))


results["within"] = np.zeros((len(given["limits"]), 16), f32)
for y, (base, low, high) in zip(results["within"], given["limits"], strict=True):
    within(given["pairs"].ctypes.data, y.ctypes.data, base, low, high)


@jit
def scalars(x, y):
    """Numbers of every width, read and written; lanes; an atomic counter."""
    for i in range(16):
        w.put_f32(y + 4 * i, w.lane(w.load_f32(x), i))
        w.put_i64(y + 64 + 8 * i, w.get_u8(x + i))
        w.put_i64(y + 192 + 8 * i, w.get_u16(x + 2 * i))
        w.put_i64(y + 320 + 8 * i, w.get_i32(x + 4 * i))
        w.put_u16(y + 448 + 2 * i, w.get_u16(x + 2 * i))
    w.store_f32(y + 480, w.splat(w.get_f32(x)))
    w.store_f32(y + 544, w.broadcast_f32(x + 4))
    w.prefetch(x)
    w.pause()
    w.put_i64(y + 608, w.atomic_add(y + 616, 5))
    w.put_i64(y + 624, w.atomic_load(y + 616))
    w.atomic_store(y + 632, w.get_i64(x))
    w.put_i64(y + 640, w.clock())


results["scalars"] = np.zeros(648, np.uint8)
scalars(given["pairs"].ctypes.data, results["scalars"].ctypes.data)
np.savez(target, **results, lanes=LANES)
