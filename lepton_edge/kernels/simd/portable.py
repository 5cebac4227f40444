"""The vocabulary of the kernels, spelled in LLVM IR that every machine understands.

A register holds 16 lanes: `f32` lanes, or `i32` lanes that may also be read as 4 bytes each.  LLVM splits
them into the halves or quarters that a narrower machine has, so a kernel is written once, over 16 lanes.
An instruction set is a subclass that respells only what it does better (see `avx512.py`, `avx2.py`).

Methods emit code: they take and return LLVM values.  An address is an i64, and offsets are Python ints, so
that a tile's addresses become one register plus an immediate.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from ..layout import SCALES

LANES = 16
I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F32, HALF = ir.FloatType(), ir.HalfType()
VF, VI, VH, VS = (ir.VectorType(t, LANES) for t in (F32, I32, HALF, I16))
Value = Any  # an LLVM value
FP4 = (12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0)  # what `Portable.fp4` makes of 0 … 15


def call(builder: Any, name: str, result: Any, *args: Value) -> Value:
    """Call an LLVM intrinsic by its name; a misspelt name aborts the process, so every name here is tested."""
    module, kind = builder.module, ir.FunctionType(result, [a.type for a in args])
    function = module.globals.get(name) or ir.Function(module, kind, name)
    return builder.call(function, args)


def lanes_of(kind: Any, v: Value) -> Any:
    """The vector type of as many `kind` as v has lanes."""
    return ir.VectorType(kind, v.type.count)


def fused(builder: Any, a: Value, b: Value, c: Value) -> Value:
    """a * b + c in one instruction, for vectors of any width; only where the machine has it."""
    return call(builder, f"llvm.fma.v{a.type.count}f32", a.type, a, b, c)


def constant(value: float | int | Sequence[int], kind: Any) -> Value:
    """A constant; a vector type repeats a single value in all lanes."""
    if isinstance(kind, ir.VectorType) and not isinstance(value, Sequence):
        return ir.Constant(kind, [value] * kind.count)
    return ir.Constant(kind, value)


class Portable:
    """Plain LLVM vectors: the instruction set called `generic`, and the base of the others."""

    name = "generic"
    machine: str | None = None  # the architecture that it is for; None: any
    cpu, features = "generic", ""  # what LLVM may compile for
    register_bytes, register_letter = 16, "x"  # of the machine: its width, and how inline assembly calls its kind
    chains = 3  # accumulators of the probes: twelve registers of the machine hide what an fma takes, up to 5 cycles
    # Register tiles of the matrix kernels (tokens, blocks of 16 rows), widest first; the last is one token.
    tiles: tuple[tuple[int, int], ...] = ((4, 1), (1, 1))
    # Tokens of the tiles that fetch the weights which come next: they wait for memory, and wider ones do not.
    fetching = range(1, 9)
    fetch_near = 3  # how near they are fetched: 3 into L1, 2 into L2
    # Whether there are registers of 16 x 16 sums (see `amx.py`), and the tokens of a batch from which on packed weights
    # are multiplied there, in tiles of 16 tokens.
    grid = False
    grid_tokens = 0
    # Widths in which query rows share a register of keys or values, widest first, and sums that fit the registers.
    query_rows: tuple[int, ...] = (4, 1)
    query_registers = 4
    # Row-major weights: f32 lanes of one of the machine's own registers, tokens that share four rows of weights, and
    # the tiles of many tokens (tokens, registers of rows).
    lanes = 4
    plain_tokens = 2
    panel_tile: tuple[int, int] = (6, 2)
    # Whether products of bf16 weights are taken in pairs (`dot_bf16`), which rounds the activations to bf16 too.
    bf16_pairs = False
    # The group dot product of q8 starts at (-8 * sum of x) << this, or at 0 where None (weights made signed first).
    q8_bias_shift: int | None = None

    def __init__(self, builder: Any) -> None:
        self.b = builder

    @classmethod
    def widths(cls, tokens: int) -> tuple[int, ...]:
        """Tokens of the tiles that a batch of so many is cut into, widest first."""
        return tuple(width for width, _ in cls.tiles[cls.grid and tokens < cls.grid_tokens :])

    def repeat(self, count: Value, body: Callable[[Value], None]) -> None:
        """body(i) for i from 0 to count - 1."""
        before, loop, after = self.b.block, self.b.append_basic_block(), self.b.append_basic_block()
        self.b.cbranch(self.b.icmp_signed(">", count, count.type(0)), loop, after)
        self.b.position_at_end(loop)
        i = self.b.phi(count.type)
        body(i)
        following = self.b.add(i, count.type(1))
        i.add_incoming(count.type(0), before)
        i.add_incoming(following, self.b.block)
        self.b.cbranch(self.b.icmp_signed("<", following, count), loop, after)
        self.b.position_at_end(after)

    # -- memory ---------------------------------------------------------------------------------------------

    def pointer(self, address: Value, offset: int, kind: Any) -> Value:
        return self.b.inttoptr(self.offset(address, offset), kind.as_pointer())

    def offset(self, address: Value, offset: int) -> Value:
        return self.b.add(address, ir.Constant(I64, offset)) if offset else address

    def load(self, address: Value, offset: int, kind: Any) -> Value:
        value = self.b.load(self.pointer(address, offset, kind), typ=kind)
        value.align = 1
        return value

    def store(self, address: Value, offset: int, value: Value) -> None:
        self.b.store(value, self.pointer(address, offset, value.type)).align = 1

    def load_some(self, address: Value, n: Value, kind: Any) -> Value:
        """The first n lanes at `address`, zeros in the rest; memory past them is not touched."""
        name = f"v{kind.count}{'f32' if kind.element == F32 else 'i16'}"
        zero = ir.Constant(kind, None)
        return call(self.b, f"llvm.masked.load.{name}.p0", kind, self.pointer(address, 0, kind),
                    ir.Constant(I32, 1), self.first(n, kind.count), zero)  # fmt: skip

    def first(self, n: Value, lanes: int = LANES) -> Value:
        """The mask of the first n lanes (n may exceed them)."""
        count = self.splat(self.b.trunc(n, I32), ir.VectorType(I32, lanes))
        return self.b.icmp_signed("<", constant(list(range(lanes)), count.type), count)

    def load_f32(self, address: Value, offset: int = 0) -> Value:
        return self.load(address, offset, VF)

    def load_f32_some(self, address: Value, n: Value) -> Value:
        return self.load_some(address, n, VF)

    def store_f32(self, address: Value, value: Value, offset: int = 0) -> None:
        self.store(address, offset, value)

    def store_f32_some(self, address: Value, value: Value, n: Value) -> None:
        call(self.b, "llvm.masked.store.v16f32.p0", ir.VoidType(), value, self.pointer(address, 0, VF),
             ir.Constant(I32, 1), self.first(n))  # fmt: skip

    def load_i32(self, address: Value, offset: int = 0) -> Value:
        return self.load(address, offset, VI)

    def load_f16(self, address: Value, offset: int = 0) -> Value:
        return self.widen_f16(self.load(address, offset, VS))

    def load_f16_some(self, address: Value, n: Value) -> Value:
        return self.widen_f16(self.load_some(address, n, VS))

    def store_f16(self, address: Value, value: Value, offset: int = 0) -> None:
        self.store(address, offset, self.narrow_f16(value))

    def load_bf16(self, address: Value, offset: int = 0) -> Value:
        return self.widen_bf16(self.load(address, offset, VS))

    def load_bf16_some(self, address: Value, n: Value) -> Value:
        return self.widen_bf16(self.load_some(address, n, VS))

    def load_i8(self, address: Value, offset: int = 0) -> Value:
        """16 signed bytes, as floats."""
        return self.to_f32(self.b.sext(self.load(address, offset, ir.VectorType(I8, LANES)), VI))

    def store_i8(self, address: Value, value: Value) -> None:
        """The low byte of each lane, 16 bytes in all."""
        self.store(address, 0, self.b.trunc(value, ir.VectorType(I8, LANES)))

    def broadcast_f32(self, address: Value, offset: int = 0) -> Value:
        """One float from memory in all lanes."""
        return self.splat(self.load(address, offset, F32), VF)

    def broadcast_i32(self, address: Value, offset: int = 0) -> Value:
        """Four bytes from memory in all lanes."""
        return self.splat(self.load(address, offset, I32), VI)

    def prefetch(self, address: Value, offset: int = 0, near: int = 3) -> None:
        """Start reading a cache line; near: 3 into L1, 2 into L2."""
        pointer = self.pointer(address, offset, I8)
        read, locality, data = (ir.Constant(I32, i) for i in (0, near, 1))
        call(self.b, "llvm.prefetch.p0", ir.VoidType(), pointer, read, locality, data)

    # -- arithmetic -----------------------------------------------------------------------------------------

    def splat(self, scalar: Value, kind: Any) -> Value:
        one = self.b.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(I32, 0))
        order = constant(0, ir.VectorType(I32, kind.count))
        return self.b.shuffle_vector(one, ir.Constant(kind, ir.Undefined), order)

    def splat_f32(self, scalar: Value) -> Value:
        return self.splat(scalar, VF)

    def zero_i32(self) -> Value:
        return constant(0, VI)

    def add(self, a: Value, b: Value) -> Value:
        return self.b.fadd(a, b)

    def add_if(self, value: Value, address: Value, offset: int, condition: Value) -> Value:
        """A value, plus the float (or floats) at address + offset where the condition is not 0 (else not read)."""
        taken = self.b.icmp_signed("!=", condition, ir.Constant(I64, 0))
        before = self.b.block
        with self.b.if_then(taken):
            more = self.b.fadd(value, self.load(address, offset, value.type))
            after = self.b.block
        merged = self.b.phi(value.type)
        merged.add_incoming(value, before)
        merged.add_incoming(more, after)
        return merged

    def sub(self, a: Value, b: Value) -> Value:
        return self.b.fsub(a, b)

    def mul(self, a: Value, b: Value) -> Value:
        return self.b.fmul(a, b)

    def div(self, a: Value, b: Value) -> Value:
        return self.b.fdiv(a, b)

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a * b + c; two roundings here, because a machine without the instruction would call libm."""
        return self.b.fadd(self.b.fmul(a, b), c)

    def max(self, a: Value, b: Value) -> Value:
        return self.b.select(self.b.fcmp_ordered(">", a, b), a, b)

    def min(self, a: Value, b: Value) -> Value:
        return self.b.select(self.b.fcmp_ordered("<", a, b), a, b)

    def sqrt(self, a: Value) -> Value:
        return call(self.b, "llvm.sqrt.v16f32", VF, a)

    def abs(self, a: Value) -> Value:
        bits = self.b.and_(self.b.bitcast(a, VI), constant(0x7FFFFFFF, VI))
        return self.b.bitcast(bits, VF)

    def to_f32(self, a: Value) -> Value:
        return self.b.sitofp(a, VF)

    def round_i32(self, a: Value) -> Value:
        """To the nearest integer, ties to even, for |a| < 2^22: adding 1.5 * 2^23 leaves it in the low bits."""
        magic = constant(12582912.0, VF)
        return self.b.sub(self.b.bitcast(self.b.fadd(a, magic), VI), constant(0x4B400000, VI))

    def exp(self, x: Value) -> Value:
        """e^x, relative error below 2e-7; x is clamped to [-87, 88].  Cody & Waite reduction, Taylor to r^7/7!."""
        # In this order of operands NaN is neither above nor below a limit, and stays NaN.
        x = self.max(constant(-87.0, VF), x)
        x = self.b.select(self.b.fcmp_ordered("<", constant(88.0, VF), x), constant(88.0, VF), x)
        n = self.round_i32(self.b.fmul(x, constant(1.4426950408889634, VF)))
        f = self.to_f32(n)
        r = self.fma(f, constant(-0.693359375, VF), x)
        r = self.fma(f, constant(2.12194440054690583e-4, VF), r)
        p = constant(1 / 5040, VF)
        for c in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0):
            p = self.fma(p, r, constant(c, VF))
        scale = self.b.shl(self.b.add(n, constant(127, VI)), constant(23, VI))
        return self.b.fmul(p, self.b.bitcast(scale, VF))

    def exp2(self, x: Value) -> Value:
        """2^x for x <= 0, relative error below 2e-7; 0 below -126.5.  Minimax polynomial of 2^r, |r| <= 1/2."""
        x = self.max(constant(-127.0, VF), x)
        shifted = self.add(x, constant(12582912.0 + 127.0, VF))  # the low bits become 127 + the nearest integer
        r = self.sub(x, self.sub(shifted, constant(12582912.0 + 127.0, VF)))
        p = constant(1.3264727382221037e-3, VF)
        for c in (9.671512810982674e-3, 5.550733744249045e-2, 0.24022242082710682, 0.6931469775977611, 1.0):
            p = self.fma(p, r, constant(c, VF))
        return self.mul(p, self.b.bitcast(self.b.shl(self.b.bitcast(shifted, VI), constant(23, VI)), VF))

    def odd(self, x: Value, limit: float, above: Sequence[float], below: Sequence[float]) -> Value:
        """x P(x^2) / Q(x^2) of x clamped to +-limit, with the coefficients of P and Q from the constant on."""
        x = self.max(constant(-limit, VF), x)
        x = self.b.select(self.b.fcmp_ordered("<", constant(limit, VF), x), constant(limit, VF), x)
        square, sums = self.mul(x, x), []
        for coefficients in (above, below):
            total = constant(coefficients[-1], VF)
            for c in coefficients[-2::-1]:
                total = self.fma(total, square, constant(c, VF))
            sums.append(total)
        return self.ratio(self.mul(x, sums[0]), sums[1])

    def ratio(self, a: Value, b: Value) -> Value:
        """a / b, relative error below 2e-7, for b from 1 to 1e6."""
        return self.div(a, b)

    def tanh(self, x: Value) -> Value:
        """Relative error below 4e-7.  Coefficients: weighted least squares towards minimax, of the ratio to x."""
        above = (1.0, 0.133810361, 0.00349560006, 2.06092621e-05, 1.33548816e-08)
        return self.odd(x, 9.0, above, (1.0, 0.467143517, 0.0258770288, 0.00032856536, 7.77665442e-07))

    def erf(self, x: Value) -> Value:
        """The error function, relative error below 5e-7; coefficients as for tanh."""
        above = (1.12837914, 0.193540781, 0.0531011661, 0.00388315548, 0.000284560871, 1.98680577e-06)
        below = (1.0, 0.504853608, 0.115348217, 0.015206876, 0.00118552385, 3.74201525e-05)
        return self.odd(x, 4.0, above, below)

    def within(self, value: Value, base: Value, low: Value, high: Value, fill: Value) -> Value:
        """Lane i keeps its value where low <= base + i <= high, and becomes `fill` elsewhere."""
        low, high = (self.splat(self.b.trunc(self.b.sub(limit, base), I32), VI) for limit in (low, high))
        lane = constant(list(range(LANES)), VI)
        keep = self.b.and_(self.b.icmp_signed(">=", lane, low), self.b.icmp_signed("<=", lane, high))
        return self.b.select(keep, value, self.splat(fill, VF))

    def halves(self, v: Value, combine: Any) -> Value:
        """Reduce 16 lanes to a scalar by a tree of four shuffles."""
        for width in (8, 4, 2, 1):
            order = [(i + width) % LANES for i in range(LANES)]
            v = combine(v, self.b.shuffle_vector(v, v, constant(order, VI)))
        return self.b.extract_element(v, ir.Constant(I32, 0))

    def reduce_add(self, v: Value) -> Value:
        return self.halves(v, self.b.fadd)

    def reduce_max(self, v: Value) -> Value:
        return self.halves(v, self.max)

    def largest(self, a: Value, b: Value) -> Value:
        """The largest absolute value of two registers; NaN where there is one, for as an integer it is the largest."""
        a, b = (self.b.and_(self.b.bitcast(v, VI), constant(0x7FFFFFFF, VI)) for v in (a, b))
        return self.b.bitcast(self.halves(self.max_i32(a, b), self.max_i32), F32)

    def max_i32(self, a: Value, b: Value) -> Value:
        return self.b.select(self.b.icmp_signed(">", a, b), a, b)

    def reduce_add_i32(self, v: Value) -> Value:
        return self.halves(v, self.b.add)

    def count_reached(self, total: Value, v: Value, limit: Value) -> Value:
        """total + 1 in the lanes where v >= limit; NaN reaches nothing."""
        return self.b.sub(total, self.b.sext(self.b.fcmp_ordered(">=", v, limit), VI))

    def add_i32(self, a: Value, b: Value) -> Value:
        return self.b.add(a, b)

    def lane(self, v: Value, i: Value) -> Value:
        return self.b.extract_element(v, self.b.trunc(i, I32))

    # -- half floats: integer arithmetic, because a machine without the instruction would call a library ---------

    def widen_bf16(self, v: Value) -> Value:
        words = lanes_of(I32, v)
        return self.b.bitcast(self.b.shl(self.b.zext(v, words), constant(16, words)), lanes_of(F32, v))

    def widen_f16(self, v: Value) -> Value:
        words, floats = lanes_of(I32, v), lanes_of(F32, v)
        b, bits = self.b, self.b.zext(v, words)
        sign = b.shl(b.and_(bits, constant(0x8000, words)), constant(16, words))
        body = b.shl(b.and_(bits, constant(0x7FFF, words)), constant(13, words))
        # Multiplying by 2^112 moves the exponent's bias from 15 to 127, subnormals included.
        scaled = b.bitcast(b.fmul(b.bitcast(body, floats), constant(2.0**112, floats)), words)
        special = b.icmp_signed(">=", body, constant(0x0F800000, words))
        finite = b.select(special, b.or_(body, constant(0x7F800000, words)), scaled)
        return b.bitcast(b.or_(finite, sign), floats)

    def narrow_bf16(self, v: Value) -> Value:
        """Round to nearest even; NaN stays NaN."""
        b, words = self.b, lanes_of(I32, v)
        bits = b.bitcast(v, words)
        odd = b.and_(b.lshr(bits, constant(16, words)), constant(1, words))
        rounded = b.add(b.add(bits, constant(0x7FFF, words)), odd)
        rounded = b.select(b.fcmp_unordered("uno", v, v), b.or_(bits, constant(0x400000, words)), rounded)
        return b.trunc(b.lshr(rounded, constant(16, words)), lanes_of(I16, v))

    def narrow_f16(self, v: Value) -> Value:
        """Round to nearest even; values too large become the largest half float, so no infinity is stored."""
        b, bits = self.b, self.b.bitcast(v, VI)
        sign = b.and_(b.lshr(bits, constant(16, VI)), constant(0x8000, VI))
        size = b.bitcast(b.and_(bits, constant(0x7FFFFFFF, VI)), VF)
        size = b.select(b.fcmp_ordered("<", size, constant(65504.0, VF)), size, constant(65504.0, VF))
        word = b.bitcast(size, VI)
        # Normal: rebias, add half a unit and the tie bit.  Subnormal: adding 0.5 leaves the rounded bits at the bottom.
        odd = b.and_(b.lshr(word, constant(13, VI)), constant(1, VI))
        normal = b.lshr(b.add(b.add(word, constant(0xC8000FFF - (1 << 32), VI)), odd), constant(13, VI))
        tiny = b.sub(b.bitcast(b.fadd(size, constant(0.5, VF)), VI), constant(0x3F000000, VI))
        small = b.fcmp_ordered("<", size, constant(2.0**-14, VF))
        finite = b.or_(b.select(small, tiny, normal), sign)
        return b.trunc(b.select(b.fcmp_unordered("uno", v, v), constant(0x7E00, VI), finite), VS)

    # -- rows of f32, f16 and bf16 weights: registers of `lanes` floats, or of `lanes` pairs of bf16 -------------------

    def load_row(self, name: str, address: Value, offset: int = 0, n: Value | None = None) -> Value:
        """`lanes` numbers of format `name` as floats; of them the first n, and zeros, where n is given."""
        kind = ir.VectorType(F32 if name == "f32" else I16, self.lanes)
        if n is None:
            value = self.load(address, offset, kind)
        else:
            value = self.load_some(self.b.add(address, ir.Constant(I64, offset)), n, kind)
        return {"f32": lambda v: v, "f16": self.widen_f16, "bf16": self.widen_bf16}[name](value)

    def load_pairs(self, address: Value, offset: int = 0, n: Value | None = None) -> Value:
        """2 * `lanes` bf16 numbers, or the first n and zeros; as a register of floats, for want of a type of pairs."""
        kind = ir.VectorType(I16, 2 * self.lanes)
        if n is None:
            value = self.load(address, offset, kind)
        else:
            value = self.load_some(self.b.add(address, ir.Constant(I64, offset)), n, kind)
        return self.b.bitcast(value, ir.VectorType(F32, self.lanes))

    def round_pairs(self, low: Value, high: Value) -> Value:
        """The floats of two registers, rounded to bf16, in one."""
        order = constant(list(range(2 * self.lanes)), ir.VectorType(I32, 2 * self.lanes))
        joined = self.b.shuffle_vector(self.narrow_bf16(low), self.narrow_bf16(high), order)
        return self.b.bitcast(joined, low.type)

    def dot_bf16(self, total: Value, a: Value, b: Value) -> Value:
        """total[lane] + the products of the lane's upper and of its lower bf16, rounded after each."""
        words = lanes_of(I32, total)
        a, b = self.b.bitcast(a, words), self.b.bitcast(b, words)
        a_upper, b_upper = (self.b.bitcast(self.b.and_(v, constant(-65536, words)), total.type) for v in (a, b))
        a_lower, b_lower = (self.b.bitcast(self.b.shl(v, constant(16, words)), total.type) for v in (a, b))
        return self.fma(a_lower, b_lower, self.fma(a_upper, b_upper, total))

    def sum_four(self, a: Value, b: Value, c: Value, d: Value) -> Value:
        """The sums over the lanes of four registers, <4 x float>: always in the same order."""
        if a.type.count > 8:
            a, b, c, d = (self.fold(v) for v in (a, b, c, d))
        lanes = range(a.type.count)

        def both(u: Value, v: Value, low: Sequence[int], high: Sequence[int]) -> Value:
            """Lanes picked in every four of u (0..3) and v (4..7), added."""
            picked = []
            for order in (low, high):
                index = [q + i if i < 4 else len(lanes) + q + i - 4 for q in lanes[::4] for i in order]
                picked.append(self.b.shuffle_vector(u, v, constant(index, lanes_of(I32, u))))
            return self.b.fadd(*picked)

        ab, cd = (both(u, v, (0, 4, 1, 5), (2, 6, 3, 7)) for u, v in ((a, b), (c, d)))
        total = both(ab, cd, (0, 1, 4, 5), (2, 3, 6, 7))
        while total.type.count > 4:
            total = self.fold(total)
        return total

    def transpose(self, rows: Sequence[Value]) -> list[Value]:
        """As many registers as each has lanes, their lanes and themselves exchanged."""
        found, count, width = list(rows), len(rows), 1
        while width < count:
            for i in range(count):
                if not i & width:
                    a, b = found[i], found[i + width]
                    found[i] = self.pick(a, b, [count + n - width if n & width else n for n in range(count)])
                    found[i + width] = self.pick(a, b, [count + n if n & width else n + width for n in range(count)])
            width *= 2
        return found

    def pick(self, a: Value, b: Value, lanes: Sequence[int]) -> Value:
        """These lanes of two registers, those of b counted on from a's."""
        return self.b.shuffle_vector(a, b, constant(list(lanes), ir.VectorType(I32, len(lanes))))

    def fold(self, v: Value) -> Value:
        """The lower half of a register plus its upper half."""
        half = v.type.count // 2
        parts = (constant(list(range(i, i + half)), ir.VectorType(I32, half)) for i in (0, half))
        return self.b.fadd(*(self.b.shuffle_vector(v, v, order) for order in parts))

    # -- packed weights ---------------------------------------------------------------------------------------

    def low_nibbles(self, v: Value) -> Value:
        return self.b.and_(v, constant(0x0F0F0F0F, VI))

    def high_nibbles(self, v: Value) -> Value:
        return self.b.and_(self.b.lshr(v, constant(4, VI)), constant(0x0F0F0F0F, VI))

    def subtract_bytes(self, a: Value, b: Value) -> Value:
        kind = ir.VectorType(I8, 4 * LANES)
        return self.b.bitcast(self.b.sub(self.b.bitcast(a, kind), self.b.bitcast(b, kind)), VI)

    def dot4(self, total: Value, a: Value, b: Value) -> Value:
        """total[lane] += sum over the lane's 4 bytes of a * b; b is signed, and the bytes of a are below 128."""
        for shift in (0, 8, 16, 24):
            left = self.b.and_(self.b.lshr(a, constant(shift, VI)), constant(255, VI))
            right = self.b.ashr(self.b.shl(b, constant(24 - shift, VI)), constant(24, VI))
            total = self.b.add(total, self.b.mul(left, right))
        return total

    def dot_q4(self, start: Value, weights: Sequence[Value], x: Sequence[Value]) -> Value:
        """One group of 32 columns: eight registers of nibbles (0..15) against eight broadcasts of int8."""
        for w, a in zip(weights, x, strict=True):
            start = self.dot4(start, w, a)
        return start

    def dot_q8(self, start: Value, weights: Sequence[Value], x: Sequence[Value]) -> Value:
        """The same for bytes that hold weight + 128; see `q8_bias_shift` for where the sum must start."""
        flipped = [self.b.xor(w, constant(0x80808080 - (1 << 32), VI)) for w in weights]
        for w, a in zip(flipped, x, strict=True):
            for shift in (0, 8, 16, 24):
                left, right = (
                    self.b.ashr(self.b.shl(v, constant(24 - shift, VI)), constant(24, VI)) for v in (w, a)
                )
                start = self.b.add(start, self.b.mul(left, right))
        return start

    def dot_mxfp4(self, start: Value, weights: Sequence[Value], x: Sequence[Value]) -> Value:
        """The same for what `fp4` makes, 0..24."""
        return Portable.dot_q4(self, start, weights, x)

    def fp4(self, v: Value) -> Value:
        """Codes of mxfp4, bytes 0..15, as twice their value (see `quant/formats/mxfp4.py`) plus 12, bytes 0..24.

        Their lower three bits count 0 1 2 3 4 6 8 12: 1 for each, 1 more above 4, and 2 more above 6.
        """
        kind = ir.VectorType(I8, 4 * LANES)
        codes = self.b.bitcast(v, kind)
        size = self.b.and_(codes, constant(7, kind))
        four, six = (call(self.b, "llvm.usub.sat.v64i8", kind, size, constant(n, kind)) for n in (4, 6))
        size = self.b.add(self.b.add(size, four), self.b.add(six, six))
        middle, negative = constant(12, kind), self.b.icmp_unsigned(">", codes, constant(7, kind))
        return self.b.bitcast(self.b.select(negative, self.b.sub(middle, size), self.b.add(middle, size)), VI)

    def start(self, name: str, sums: Value) -> Value:
        """Where a group's integer sum starts: -8 times the sum of its x (see `layout.RECORD`), less or more, takes away
        what was added to the weights to make them unsigned."""
        if name == "mxfp4":
            return self.b.add(sums, self.b.ashr(sums, constant(1, sums.type)))
        if name == "q4":
            return sums
        if self.q8_bias_shift is None:
            return constant(0, sums.type)
        return self.b.shl(sums, constant(self.q8_bias_shift, sums.type))

    def load_scales(self, name: str, address: Value) -> Value:
        """The scales of a group of 16 rows."""
        return self.load_bf16(address) if name == "mxfp4" else self.load_f16(address)

    def unpack(self, name: str, weights: Value, offset: int = 0) -> list[Value]:
        """The eight registers of one group of one block: columns 0..3, 4..7, … of its 16 rows."""
        if name == "q8":
            return [self.load_i32(weights, offset + 64 * c) for c in range(8)]
        pairs = [self.load_i32(weights, offset + 64 * c) for c in range(4)]
        nibbles = [half(v) for v in pairs for half in (self.low_nibbles, self.high_nibbles)]
        return [self.fp4(v) for v in nibbles] if name == "mxfp4" else nibbles

    def group_products(
        self, name: str, total: list[Value], w: Value, x: Value, block_bytes: Value, tokens: int, blocks: int
    ) -> list[Value]:
        """total[t * blocks + b] += one group of 32 columns of block b of format `name` times that of token t.

        w: address of the group in the first block; x: the group's record of the tile (see `layout.RECORD`).
        Here all weights of the group are unpacked first, which takes 8 registers a block.
        """
        unpacked, scale = [], []
        for _ in range(blocks):
            unpacked.append(self.unpack(name, w, SCALES))
            scale.append(self.load_scales(name, w))
            w = self.b.add(w, block_bytes)
        return self.add_group(total, name, unpacked, scale, x, tokens)

    def add_group(self, total: list[Value], name: str, weights: Sequence[Sequence[Value]], scales: Sequence[Value],
                  x: Value, tokens: int) -> list[Value]:  # fmt: skip
        """The same from unpacked weights: eight registers for each block, and one of scales."""
        dot = {"q4": self.dot_q4, "q8": self.dot_q8, "mxfp4": self.dot_mxfp4}[name]
        for t in range(tokens):
            columns = [self.broadcast_i32(x, t * 32 + 4 * c) for c in range(8)]
            x_scale = self.broadcast_f32(x, tokens * 32 + 4 * t)
            start = self.start(name, self.broadcast_i32(x, tokens * 36 + 4 * t))
            for b, (block, scale) in enumerate(zip(weights, scales, strict=True)):
                i = t * len(weights) + b
                product = self.to_f32(dot(start, block, columns))
                total[i] = self.fma(product, self.mul(scale, x_scale), total[i])
        return total

    # -- probes -------------------------------------------------------------------------------------------------

    def opaque(self, v: Value) -> Value:
        """The same value, of which the optimizer knows nothing: it can neither reuse nor foresee what is made of it."""
        lanes = self.register_bytes // 4
        kind = ir.VectorType(v.type.element, lanes)
        letter = self.register_letter
        parts = []
        for first in range(0, LANES, lanes):
            order = constant(list(range(first, first + lanes)), ir.VectorType(I32, lanes))
            part = self.b.shuffle_vector(v, v, order)
            parts.append(self.b.asm(ir.FunctionType(kind, [kind]), "", f"={letter},0", [part], side_effect=True))
        while len(parts) > 1:
            lanes *= 2
            order = constant(list(range(lanes)), ir.VectorType(I32, lanes))
            parts = [self.b.shuffle_vector(a, b, order) for a, b in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]

    # -- threads ------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Tell the core that this is a spin loop."""

    def clock(self) -> Value:
        return call(self.b, "llvm.readcyclecounter", I64)
