"""The words as PTX instructions (PTX ISA 8.x): memory at an address, conversions, and the tensor cores' products.

`unrolled` makes a word of many instructions, whose floats or registers stay in registers: its body is run once, while
the kernel is compiled, and says what to emit.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import cuda
from numba.cuda import types
from numba.cuda.extending import intrinsic

__all__ = [
    "LANES",
    "Emit",
    "arrive",
    "begin",
    "exp2",
    "get_bf16",
    "get_f16",
    "get_f32",
    "get_fresh_f32",
    "get_i8",
    "get_i32",
    "get_i64",
    "get_shared_f32",
    "get_u8",
    "jit",
    "max_nan",
    "put_f16",
    "put_f32",
    "put_i8",
    "put_i32",
    "put_shared_f32",
    "round_i32",
    "shared",
    "sync_warp",
    "unrolled",
    "warp_max",
    "warp_sum",
    "zeros",
]  # fmt: skip

LANES = 32  # threads of a warp, which work on neighbours

I8, I16, I32, I64 = (ir.IntType(n) for n in (8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()
LETTERS = {I16: "h", I32: "r", I64: "l", F32: "f"}
OURS = {"b32": (I32, types.int32), "b64": (I64, types.int64), "f32": (F32, types.float32)}
FULL = 0xFFFFFFFF

jit = cuda.jit(device=True, inline=False, fastmath=False)


def asm(b: Any, text: str, results: Sequence[Any], args: Sequence[Any], pure: bool) -> list[Any]:
    """Emit instructions; $0… are the results, then the arguments.  pure: may be moved, shared or left out."""
    letters = ",".join([f"={LETTERS[kind]}" for kind in results] + [LETTERS[arg.type] for arg in args])
    kind = ir.VoidType() if not results else results[0] if len(results) == 1 else ir.LiteralStructType(list(results))
    function = ir.FunctionType(kind, [arg.type for arg in args])
    found = b.call(ir.InlineAsm(function, text, letters, side_effect=not pure), args)
    return [found] if len(results) == 1 else [b.extract_value(found, i) for i in range(len(results))]


def word(text: str, result: str, *args: str, pure: bool = False) -> Any:
    """A word of one instruction, from and to numbers that Numba knows."""
    kinds = tuple(OURS[name][1] for name in args)

    def typed(context: Any, *given: Any) -> Any:
        def generate(context: Any, b: Any, signature: Any, values: Any) -> Any:
            if not result:
                asm(b, text, [], values, pure)
                return context.get_dummy_value()
            return asm(b, text, [OURS[result][0]], values, pure)[0]

        return (OURS[result][1] if result else types.none)(*kinds), generate

    return intrinsic(_of_arity(typed, len(args)))


def _of_arity(typed: Callable[..., Any], count: int) -> Any:
    """`typed` with so many named parameters: Numba reads the signature."""
    if count == 1:
        return lambda context, a: typed(context, a)
    if count == 2:
        return lambda context, a, b: typed(context, a, b)
    return lambda context, a, b, c: typed(context, a, b, c)


class Emit:
    """What the body of an unrolled word says: each method emits an instruction and gives its result."""

    def __init__(self, b: Any) -> None:
        self.b = b

    def i64(self, n: int) -> Any:
        return ir.Constant(I64, n)

    def i32(self, n: int) -> Any:
        return ir.Constant(I32, n)

    def f32(self, x: float) -> Any:
        return ir.Constant(F32, x)

    def load(self, address: Any, count: int, offset: int = 0) -> list[Any]:
        """`count` (1, 2, 4) registers of read-only memory, `offset` bytes behind the address."""
        names = "{" + ", ".join(f"${i}" for i in range(count)) + "}" if count > 1 else "$0"
        wide = f".v{count}" if count > 1 else ""
        return asm(self.b, f"ld.global.nc{wide}.b32 {names}, [${count}+{offset}];", [I32] * count, [address], True)

    def read(self, address: Any, count: int, offset: int = 0) -> list[Any]:
        """The same of memory that kernels before this one write: never before `begin`."""
        names = "{" + ", ".join(f"${i}" for i in range(count)) + "}" if count > 1 else "$0"
        wide = f".v{count}" if count > 1 else ""
        return asm(self.b, f"ld.global{wide}.b32 {names}, [${count}+{offset}];", [I32] * count, [address], False)

    def add(self, a: Any, c: Any) -> Any:
        return self.b.add(a, c)

    def mul(self, a: Any, c: Any) -> Any:
        return self.b.mul(a, c)

    def add_f(self, a: Any, c: Any) -> Any:
        return self.b.fadd(a, c)

    def sub_f(self, a: Any, c: Any) -> Any:
        return self.b.fsub(a, c)

    def min_f(self, a: Any, c: Any) -> Any:
        return asm(self.b, "min.f32 $0, $1, $2;", [F32], [a, c], True)[0]

    def mul_f(self, a: Any, c: Any) -> Any:
        return self.b.fmul(a, c)

    def permute(self, a: Any, c: Any, order: int) -> Any:
        """Four of the eight bytes of two registers, the lowest first: `prmt`."""
        return asm(self.b, f"prmt.b32 $0, $1, $2, {order};", [I32], [a, c], True)[0]

    def fma(self, a: Any, c: Any, d: Any) -> Any:
        return asm(self.b, "fma.rn.f32 $0, $1, $2, $3;", [F32], [a, c, d], True)[0]

    def low_nibbles(self, w: Any) -> Any:
        """Codes 0..15 of the low halves of bytes as 16 * (code - 8), signed."""
        high = self.b.shl(w, ir.Constant(I32, 4))
        return self.b.xor(self.b.and_(high, ir.Constant(I32, 0xF0F0F0F0)), ir.Constant(I32, 0x80808080))

    def high_nibbles(self, w: Any) -> Any:
        """The same of the high halves."""
        return self.b.xor(self.b.and_(w, ir.Constant(I32, 0xF0F0F0F0)), ir.Constant(I32, 0x80808080))

    def signed(self, w: Any) -> Any:
        """Codes 0..255 as code - 128."""
        return self.b.xor(w, ir.Constant(I32, 0x80808080))

    def f16_pair(self, w: Any) -> list[Any]:
        """The two f16 numbers in a register, as floats."""
        text = "{.reg .b16 l, h; mov.b32 {l, h}, $2; cvt.f32.f16 $0, l; cvt.f32.f16 $1, h;}"
        return asm(self.b, text, [F32, F32], [w], True)

    def bf16_pair(self, w: Any) -> list[Any]:
        """The two bf16 numbers in a register, as floats."""
        high = self.b.and_(w, ir.Constant(I32, 0xFFFF0000))
        return [self.bits_f(self.b.shl(w, ir.Constant(I32, 16))), self.bits_f(high)]

    def tf32_parts(self, x: Any) -> list[Any]:
        """Two TF32 numbers whose sum is a float, but for its last bits, as registers."""
        high = asm(self.b, "cvt.rna.tf32.f32 $0, $1;", [I32], [x], True)[0]
        rest = self.b.fsub(x, self.bits_f(high))
        return [high, asm(self.b, "cvt.rna.tf32.f32 $0, $1;", [I32], [rest], True)[0]]

    def to_f16_pair(self, low: Any, high: Any) -> Any:
        """Two floats as f16 numbers in a register."""
        return asm(self.b, "cvt.rn.f16x2.f32 $0, $2, $1;", [I32], [low, high], True)[0]

    def float(self, i: Any) -> Any:
        return self.b.sitofp(i, F32)

    def bits_f(self, w: Any) -> Any:
        return self.b.bitcast(w, F32)

    def mma_i8(self, a: Sequence[Any], b: Sequence[Any]) -> list[Any]:
        """16 rows x 32 columns times 32 x 8, signed bytes to int32: `mma.m16n8k32`."""
        text = (
            "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, "
            "{$10, $10, $10, $10};"
        )
        return asm(self.b, text, [I32] * 4, [*a, *b, ir.Constant(I32, 0)], True)

    def mma_f16(self, total: Sequence[Any], a: Sequence[Any], b: Sequence[Any]) -> list[Any]:
        """total + 16 rows x 16 columns times 16 x 8, f16 to float: `mma.m16n8k16`."""
        text = (
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, "
            "{$10, $11, $12, $13};"
        )
        return asm(self.b, text, [F32] * 4, [*a, *b, *total], True)

    def mma_tf32(self, total: Sequence[Any], a: Sequence[Any], b: Sequence[Any]) -> list[Any]:
        """total + 16 rows x 8 columns times 8 x 8, TF32 to float: `mma.m16n8k8`."""
        text = (
            "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, "
            "{$10, $11, $12, $13};"
        )
        return asm(self.b, text, [F32] * 4, [*a, *b, *total], True)

    def exp2(self, x: Any) -> Any:
        return asm(self.b, "ex2.approx.ftz.f32 $0, $1;", [F32], [x], True)[0]

    def max_f(self, a: Any, c: Any) -> Any:
        return asm(self.b, "max.f32 $0, $1, $2;", [F32], [a, c], True)[0]

    def from_lane(self, x: Any, distance: int) -> Any:
        """x of the lane whose number differs in the bits of `distance`."""
        text = f"shfl.sync.bfly.b32 $0, $1, {distance}, 31, -1;"
        return self.b.bitcast(asm(self.b, text, [I32], [self.b.bitcast(x, I32)], False)[0], x.type)

    def put_shared(self, address: Any, values: Sequence[Any], offset: int = 0) -> None:
        """Registers or floats into shared memory, one behind the other."""
        names = "{" + ", ".join(f"${i + 1}" for i in range(len(values))) + "}" if len(values) > 1 else "$1"
        wide = f".v{len(values)}" if len(values) > 1 else ""
        asm(self.b, f"st.shared{wide}.b32 [$0+{offset}], {names};", [], [address, *self.as_bits(values)], False)

    def within(self, x: Any, i: int, first: Any, last: Any) -> Any:
        """x where first <= i <= last, else -inf."""
        at = ir.Constant(I32, i)
        seen = self.b.and_(self.b.icmp_signed("<=", first, at), self.b.icmp_signed("<=", at, last))
        return self.b.select(seen, x, ir.Constant(F32, float("-inf")))

    def eighth(self, address: Any, d: int, offset: int) -> list[Any]:
        """d / 8 numbers of 16 bits at an address, as registers."""
        wide = 4 if d % 64 == 0 else 2
        return [bits for i in range(0, d // 16, wide) for bits in self.read(address, wide, offset + 4 * i)]

    def as_bits(self, values: Sequence[Any]) -> list[Any]:
        return [self.b.bitcast(value, I32) if value.type == F32 else value for value in values]

    def get_if(self, condition: Any, address: Any, count: int) -> list[Any]:
        """`count` (1 or 2) floats at an address; zeros, whatever the address, where the condition, a number, is 0."""
        names, zeros = ("{$0, $1}", "mov.f32 $0, 0f00000000; mov.f32 $1, 0f00000000;")
        wide = ".v2"
        if count == 1:
            names, zeros, wide = "$0", "mov.f32 $0, 0f00000000;", ""
        read = f"@p ld.global{wide}.f32 {names}, [${count + 1}];"
        text = f"{{.reg .pred p; setp.ne.s32 p, ${count}, 0; {zeros} {read}}}"
        letters = ",".join(["=&f"] * count + ["r", "l"])
        kind = F32 if count == 1 else ir.LiteralStructType([F32] * count)
        function = ir.FunctionType(kind, [I32, I64])
        found = self.b.call(ir.InlineAsm(function, text, letters, side_effect=True), [condition, address])
        return [found] if count == 1 else [self.b.extract_value(found, i) for i in range(count)]

    def put_if(self, condition: Any, address: Any, values: Sequence[Any]) -> None:
        """One or two floats to an address, where the condition, a number, is not 0."""
        store = "st.global.v2.f32 [$1], {$2, $3};" if len(values) == 2 else "st.global.f32 [$1], $2;"
        text = f"{{.reg .pred p; setp.ne.s32 p, $0, 0; @p {store}}}"
        asm(self.b, text, [], [condition, address, *values], False)

    def both(self, a: Any, c: Any) -> Any:
        return self.b.and_(a, c)

    def flag(self, condition: Any) -> Any:
        return self.b.zext(condition, I32)

    def less(self, a: Any, c: Any) -> Any:
        return self.b.icmp_signed("<", a, c)


def unrolled(body: Callable[..., Sequence[Any]], count: int, *args: str, results: int | None = None) -> Any:
    """A word (floats, *args) -> floats: `body(emit, [count floats], *args)` gives as many, or `results`.

    args: 'b32', 'b64' or 'f32'.
    """
    kinds = tuple(OURS[name][1] for name in args)
    given, back = types.UniTuple(types.float32, count), types.UniTuple(types.float32, results or count)

    def typed(context: Any, floats: Any, *rest: Any) -> Any:
        def generate(context: Any, b: Any, signature: Any, values: Any) -> Any:
            held = [b.extract_value(values[0], i) for i in range(count)]
            return context.make_tuple(b, signature.return_type, list(body(Emit(b), held, *values[1:])))

        return back(given, *kinds), generate

    names = ", ".join(f"a{i}" for i in range(len(args)))
    comma = ", " if names else ""
    made: Any = eval(f"lambda context, floats{comma}{names}: typed(context, floats{comma}{names})", {"typed": typed})
    return intrinsic(made)


def zeros(count: int) -> Any:
    """A word () -> so many floats, all 0."""
    kind = types.UniTuple(types.float32, count)

    def typed(context: Any) -> Any:
        def generate(context: Any, b: Any, signature: Any, values: Any) -> Any:
            return context.make_tuple(b, signature.return_type, [ir.Constant(F32, 0.0)] * count)

        return kind(), generate

    return intrinsic(typed)


def shared(name: str, nbytes: int) -> Any:
    """A word () -> the address of so many bytes of the block's shared memory, which go by that name."""

    def typed(context: Any) -> Any:
        def generate(context: Any, b: Any, signature: Any, values: Any) -> Any:
            module = b.module
            if name not in module.globals:
                held = ir.GlobalVariable(module, ir.ArrayType(I8, nbytes), name, addrspace=3)
                held.align, held.linkage, held.initializer = 128, "internal", ir.Constant(held.value_type, ir.Undefined)
            return b.ptrtoint(module.globals[name], I32)

        return types.int32(), generate

    return intrinsic(typed)


ARCH = 90  # the compute capability that is compiled for: see `build.py`


@intrinsic
def begin(context):
    """The kernel may start while the one before it runs: from here on, what that has written is there.

    Programmatic dependent launch, which GPUs before 9.0 do not have; there it is nothing.
    """

    def generate(context: Any, b: Any, signature: Any, values: Any) -> Any:
        if ARCH >= 90:
            asm(b, "griddepcontrol.launch_dependents;", [], [], False)
            asm(b, "griddepcontrol.wait;", [], [], False)
        return context.get_dummy_value()

    return types.none(), generate


# Memory that other threads may write in the same kernel is read by `ld.global`, the rest by `ld.global.nc`.
get_i64 = word("ld.global.nc.b64 $0, [$1];", "b64", "b64", pure=True)
get_i32 = word("ld.global.b32 $0, [$1];", "b32", "b64")
get_f32 = word("ld.global.f32 $0, [$1];", "f32", "b64")
get_f16 = word("{.reg .b16 h; ld.global.b16 h, [$1]; cvt.f32.f16 $0, h;}", "f32", "b64")
get_bf16 = word("{.reg .b16 h, z; mov.b16 z, 0; ld.global.b16 h, [$1]; mov.b32 $0, {z, h};}", "f32", "b64")
get_u8 = word("ld.global.u8 $0, [$1];", "b32", "b64")
get_i8 = word("ld.global.s8 $0, [$1];", "b32", "b64")
put_f32 = word("st.global.f32 [$0], $1;", "", "b64", "f32")
put_i32 = word("st.global.b32 [$0], $1;", "", "b64", "b32")
put_i8 = word("st.global.b8 [$0], $1;", "", "b64", "b32")
put_f16 = word("{.reg .b16 h; cvt.rn.f16.f32 h, $1; st.global.b16 [$0], h;}", "", "b64", "f32")
get_fresh_f32 = word("ld.global.cg.f32 $0, [$1];", "f32", "b64")  # what other blocks of the kernel have written
exp2 = word("ex2.approx.ftz.f32 $0, $1;", "f32", "f32", pure=True)
get_shared_f32 = word("ld.shared.f32 $0, [$1];", "f32", "b32")
put_shared_f32 = word("st.shared.f32 [$0], $1;", "", "b32", "f32")
max_nan = word("max.NaN.f32 $0, $1, $2;", "f32", "f32", "f32", pure=True)  # NaN if one is
round_i32 = word("cvt.rni.s32.f32 $0, $1;", "b32", "f32", pure=True)
# Counts a block that has written its part, and sees what those counted before have written.
arrive = word("atom.acq_rel.gpu.global.add.s32 $0, [$1], 1;", "b32", "b64")


@jit
def sync_warp():
    """What a lane wrote before, the others read after."""
    cuda.syncwarp()


@jit
def warp_sum(x):
    """The sum over the lanes of a warp, in each."""
    for distance in (16, 8, 4, 2, 1):
        x += cuda.shfl_xor_sync(FULL, x, distance)
    return x


@jit
def warp_max(x):
    """The largest over the lanes of a warp, in each; NaN if one is."""
    for distance in (16, 8, 4, 2, 1):
        x = max_nan(x, cuda.shfl_xor_sync(FULL, x, distance))
    return x
