"""SIMD registers as ordinary values inside Numba functions.

`f32x16` and `i32x16` are Numba types whose data model is an LLVM vector, so a local variable of a jitted function
lives in a register.  Each word below is one method of `portable.Portable`, as spelled by the instruction set that
this process builds for (`LEPTON_BUILD_ISA`); `unrolled` makes a word of a whole register tile.
"""

import os
from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core.datamodel import PrimitiveModel
from numba.extending import intrinsic, register_model

from ..machine import instruction_set
from .portable import I32, I64, Portable

ISA: type[Portable] = instruction_set(os.environ.get("LEPTON_BUILD_ISA", "generic"))

f32, i32, i64 = types.float32, types.int32, types.int64
void = types.void


class Register(types.Type):
    """A Numba type for 16 lanes, or for as many as the machine's own registers have."""

    def __init__(self, element: str, lanes: int = 16) -> None:
        self.ir = ir.VectorType({"f32": ir.FloatType(), "i32": I32}[element], lanes)
        super().__init__(name=f"{element}x{lanes}")


@register_model(Register)
class _RegisterModel(PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Register) -> None:
        super().__init__(dmm, fe_type, fe_type.ir)


f32x16, i32x16 = Register("f32"), Register("i32")
f32xn = Register("f32", ISA.lanes)


def jit(function: Callable) -> Callable:
    """Compile without the GIL, without exceptions and without bounds checks: sizes were checked before."""
    options: Any = dict(no_cpython_wrapper=True, no_cfunc_wrapper=True)  # only kernels call it: saves 30 %
    return njit(nogil=True, boundscheck=False, error_model="numpy", **options)(function)


def word(emit: Callable, result: Any, *params: Any) -> Callable:
    """A Numba function of `params` -> `result` whose code is `emit(isa, *llvm_values)`."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value = emit(ISA(builder), *args)
        return context.get_dummy_value() if result is void else value

    def typing(typingctx: Any, *args: Any) -> Any:
        return result(*params), codegen

    names = ["typingctx", *(f"a{i}" for i in range(len(params)))]
    typing.__signature__ = Signature([Parameter(n, Parameter.POSITIONAL_OR_KEYWORD) for n in names])  # type: ignore
    return intrinsic(typing)



def method(name: str, result: Any, *params: Any) -> Callable:
    """A word that is one method of the instruction set."""
    return word(lambda isa, *args: getattr(isa, name)(*args), result, *params)


load_f32, load_f16, load_bf16, load_i8, broadcast_f32 = (
    method(name, f32x16, i64) for name in ("load_f32", "load_f16", "load_bf16", "load_i8", "broadcast_f32")
)
load_f32_some, load_f16_some, load_bf16_some = (
    method(name, f32x16, i64, i64) for name in ("load_f32_some", "load_f16_some", "load_bf16_some")
)
store_f32, store_f16 = (method(name, void, i64, f32x16) for name in ("store_f32", "store_f16"))
store_f32_some = method("store_f32_some", void, i64, f32x16, i64)
store_i8 = method("store_i8", void, i64, i32x16)
splat = method("splat_f32", f32x16, f32)
add, sub, mul, div, vmax, vmin = (
    method(name, f32x16, f32x16, f32x16) for name in ("add", "sub", "mul", "div", "max", "min")
)
fma = method("fma", f32x16, f32x16, f32x16, f32x16)
vabs, exp, exp2, sqrt, tanh, erf = (
    method(name, f32x16, f32x16) for name in ("abs", "exp", "exp2", "sqrt", "tanh", "erf")
)
round_i32 = method("round_i32", i32x16, f32x16)
add_i32 = method("add_i32", i32x16, i32x16, i32x16)
zero_i32 = method("zero_i32", i32x16)
count_reached = method("count_reached", i32x16, i32x16, f32x16, f32x16)
within = method("within", f32x16, f32x16, i64, i64, i64, f32)
reduce_add, reduce_max = (method(name, f32, f32x16) for name in ("reduce_add", "reduce_max"))
largest = method("largest", f32, f32x16, f32x16)
reduce_add_i32 = method("reduce_add_i32", i32, i32x16)
lane = method("lane", f32, f32x16, i64)
pause = method("pause", void)
prefetch = method("prefetch", void, i64)
clock = method("clock", i64)


def _load_scalar(kind: Any, result: Any, extend: str | None = None) -> Callable:
    def emit(isa: Portable, address: Any) -> Any:
        value = isa.load(address, 0, kind)
        return getattr(isa.b, extend)(value, I64) if extend else value

    return word(emit, result, i64)


def _store_scalar(kind: Any, param: Any) -> Callable:
    def emit(isa: Portable, address: Any, value: Any) -> None:
        isa.store(address, 0, isa.b.trunc(value, kind) if param is i64 and kind is not I64 else value)

    return word(emit, void, i64, param)


get_i64, get_f32 = _load_scalar(I64, i64), _load_scalar(ir.FloatType(), f32)
get_u8, get_u16, get_i32 = (
    _load_scalar(ir.IntType(n), i64, how) for n, how in ((8, "zext"), (16, "zext"), (32, "sext"))
)
put_i64, put_f32 = _store_scalar(I64, i64), _store_scalar(ir.FloatType(), f32)
put_i32, put_u16 = (_store_scalar(ir.IntType(n), i64) for n in (32, 16))


# -- threads ---------------------------------------------------------------------------------------------------

atomic_add = word(
    lambda isa, address, n: isa.b.atomic_rmw("add", isa.pointer(address, 0, I64), n, "seq_cst"), i64, i64, i64
)
atomic_load = word(lambda isa, address: isa.b.load_atomic(isa.pointer(address, 0, I64), "acquire", 8), i64, i64)
atomic_store = word(
    lambda isa, address, n: isa.b.store_atomic(n, isa.pointer(address, 0, I64), "release", 8), void, i64, i64
)


def _call_kernel(isa: Portable, kernel: Any, row: Any, context: Any, thread: Any) -> None:
    kind = ir.FunctionType(ir.VoidType(), [I64, I64, I64])
    isa.b.call(isa.b.inttoptr(kernel, kind.as_pointer()), [row, context, thread])


def _call_plain(isa: Portable, function: Any) -> None:
    kind = ir.FunctionType(I32, [])
    isa.b.call(isa.b.inttoptr(function, kind.as_pointer()), [])


call_kernel = word(_call_kernel, void, i64, i64, i64, i64)
call_plain = word(_call_plain, void, i64)


# -- register tiles --------------------------------------------------------------------------------------------


def unrolled(body: Callable, count: int, *params: Any, register: Register = f32x16) -> Callable:
    """A word over a tile of `count` registers: `body(isa, registers, *args)` -> registers, all loops unrolled.

    In a kernel it reads `tile = word(tile, address, …)`; one LLVM function body instead of hundreds of calls, which
    compiles several times faster than the same code written out.
    """
    tile = types.UniTuple(register, count)

    def emit(isa: Portable, packed: Any, *args: Any) -> Any:
        registers = [isa.b.extract_value(packed, i) for i in range(count)]
        for i, register in enumerate(body(isa, registers, *args)):
            packed = isa.b.insert_value(packed, register, i)
        return packed

    return word(emit, tile, tile, *params)


def zeros(count: int, register: Register = f32x16) -> Callable:
    """A word that makes a tile of zeros."""
    tile = types.UniTuple(register, count)
    return word(lambda isa: ir.Constant(ir.ArrayType(register.ir, count), None), tile)
