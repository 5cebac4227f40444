"""LSTM (Hochreiter & Schmidhuber 1997) and GRU (arXiv:1406.1078) as PyTorch has them: the part that goes in time.

The products of all tokens' inputs are a row before.  A thread has a whole sequence, for every unit needs the whole
state before; it multiplies as the other products of one token do, packed weights with the state as int8 groups.
"""

from collections.abc import Callable
from functools import partial

from .common import F1, at, each_token, quantize_group, scratch_of, take
from .layout import CANCEL, COUNTS, FIRSTS, GROUP, MATMUL_BYTES, PICKS, RECORD, SYNC
from .matmul_packed import strip_kernel
from .matmul_plain import in_place_kernel
from .ops import PACKED, PLAIN, RECURRENT, field
from .plain_kinds import Kind
from .recurrent import load_left, next_token, sigmoid, state_of
from .simd.words import (
    ISA,
    add,
    atomic_load,
    fma,
    get_i64,
    jit,
    load_f32,
    mul,
    splat,
    store_f32_some,
    sub,
    tanh,
)

# -- one token ------------------------------------------------------------------------------------------------------


@jit
def padded(n):
    """n rounded up to whole groups."""
    return (n + GROUP - 1) // GROUP * GROUP


@jit
def gate_sum(x, gates, c, left):
    """What the input and the state say of sixteen units of a gate, of which `left` are there."""
    return add(load_left(x + c * 4, left), load_left(gates + c * 4, left))


@jit
def lstm_units(x, gates, state, y, n):
    """c = f c + i g and h = o tanh(c), the gates i, f, g and o one behind the other; `state` holds h, then c."""
    for u in range(0, n, 16):
        left, cell = n - u, state + (padded(n) + u) * 4
        kept = mul(sigmoid(gate_sum(x, gates, n + u, left)), load_f32(cell))
        new = tanh(gate_sum(x, gates, 2 * n + u, left))
        c = fma(sigmoid(gate_sum(x, gates, u, left)), new, kept)
        h = mul(sigmoid(gate_sum(x, gates, 3 * n + u, left)), tanh(c))
        store_f32_some(cell, c, left)
        store_f32_some(state + u * 4, h, left)
        store_f32_some(y + u * 4, h, left)


@jit
def gru_units(x, gates, state, y, n):
    """h = (1 - z) n + z h, n = tanh(x + r w h), the gates r, z and n one behind the other; `state` holds h."""
    for u in range(0, n, 16):
        left, place = n - u, state + u * 4
        r, z = sigmoid(gate_sum(x, gates, u, left)), sigmoid(gate_sum(x, gates, n + u, left))
        c = (2 * n + u) * 4
        new = tanh(fma(r, load_left(gates + c, left), load_left(x + c, left)))
        h = fma(z, load_f32(place), mul(sub(splat(F1), z), new))
        store_f32_some(place, h, left)
        store_f32_some(y + u * 4, h, left)


UNITS, STATES = {"lstm": lstm_units, "gru": gru_units}, {"lstm": 2, "gru": 1}


def state_product(cell: str, name: str) -> Callable:
    """A function that puts w h + bias at `gates`; the thread's scratch has its panel before, and room behind."""
    op, count = f"{cell}_{name}", RECURRENT[cell]
    W, BIAS, N = (field(op, f) for f in ("w", "bias", "n"))
    if name in PLAIN:
        product = in_place_kernel(Kind(name), (1,))  # tiles of more tokens would only be compiled

        @jit
        def plain(row, h, gates):
            n = at(row, N)
            product(1, h, 0, at(row, W), n, gates, 0, at(row, BIAS), 0, count * n, 0, gates - MATMUL_BYTES)

        return plain
    BLOCKS, GROUPS, BLOCK_BYTES = (field(op, f) for f in ("blocks", "groups", "block_bytes"))
    strip = strip_kernel(name, *ISA.tiles[-1])

    @jit
    def packed(row, h, gates):
        w, groups, records = at(row, W), at(row, GROUPS), gates + padded(count * at(row, N)) * 4
        for g in range(groups):
            quantize_group(h + g * GROUP * 4, records + g * RECORD, 0, 1)
        strip(0, 1, 0, at(row, BLOCKS), w, w, records, gates, 0, at(row, BIAS), 0, groups, at(row, BLOCK_BYTES),
              0)  # fmt: skip

    return packed


# -- a sequence -----------------------------------------------------------------------------------------------------


@jit
def last_token(context, t):
    """The last token of the sequence that token t is in."""
    following = next_token(context, t)
    while following >= 0:
        t, following = following, next_token(context, following)
    return t


def recurrent(cell: str, name: str) -> Callable:
    """The kernel of op `<cell>_<name>`: sequences are shared out."""
    op, units, states, product = f"{cell}_{name}", UNITS[cell], STATES[cell], state_product(cell, name)
    X, LDX, Y, LDY, N, BACK, STATE = (field(op, f) for f in ("x", "ldx", "y", "ldy", "n", "back", "state"))

    @jit
    def sequence(row, context, gates, first):
        n, back, t = at(row, N), at(row, BACK) != 0, first
        state = state_of(context, first, at(row, STATE), states * padded(n) * 4)
        if back:
            t = last_token(context, first)
        while t >= 0 and atomic_load(at(context, SYNC) + CANCEL) == 0:
            product(row, state, gates)
            units(at(row, X) + t * at(row, LDX) * 4, gates, state, at(row, Y) + t * at(row, LDY) * 4, n)
            t = (t - 1 if t > first else -1) if back else next_token(context, t)

    @jit
    def kernel(row, context, thread):
        gates = scratch_of(context, thread) + MATMUL_BYTES
        while True:
            item = take(row, context, 1)
            if item >= get_i64(at(context, COUNTS) + 32):
                break
            sequence(row, context, gates, get_i64(at(context, FIRSTS) + 8 * item))

    return kernel


# -- what a sequence ends with --------------------------------------------------------------------------------------

ENDS_X, ENDS_LDX, ENDS_Y, ENDS_LDY, ENDS_N, SPLIT = (field("ends", f) for f in ("x", "ldx", "y", "ldy", "n", "split"))


@jit
def copy(x, y, n):
    """n floats."""
    for i in range(0, n, 16):
        store_f32_some(y + i * 4, load_left(x + i * 4, n - i), n - i)


@jit
def ends(row, context, thread, m, wanted):
    """What one direction says of the last token, and the other of the first one."""
    first, ldx, split = get_i64(at(context, PICKS) + 8 * m), at(row, ENDS_LDX) * 4, at(row, SPLIT)
    x, y = at(row, ENDS_X), at(row, ENDS_Y) + m * at(row, ENDS_LDY) * 4
    copy(x + last_token(context, first) * ldx, y, split)
    copy(x + first * ldx + split * 4, y + split * 4, at(row, ENDS_N) - split)


KERNELS = {
    **{f"{cell}_{name}": partial(recurrent, cell, name) for cell in RECURRENT for name in PLAIN + PACKED},
    "ends": lambda: each_token(ends),
}
