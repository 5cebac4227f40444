"""What every CUDA kernel needs: fields of its row, sums over a block, int8 groups."""

import numpy as np
from numba import cuda

from ..layout import GROUP
from ..ops import COUNT
from .layout import COUNTS, ROOM
from .words import LANES, get_f32, get_i64, jit, put_f32, put_i8, round_i32, warp_max, warp_sum

__all__ = ["F0", "F1", "at", "block_sum", "codes_at", "count", "item", "items", "put_group", "room", "scales_at"]

F0, F1 = np.float32(0), np.float32(1)
TINY = np.float32(1e-30)  # a group below this is zero: 127 divided by it would overflow
LARGEST = np.float32(127)
WARPS = 32  # of a block, at most


@jit
def at(row, field):
    """An int64 field of a row or of the header."""
    return get_i64(row + field)


@jit
def count(row, context):
    """How many tokens this op runs over."""
    return at(context, COUNTS + 8 * at(row, 8 * COUNT))


@jit
def room(row, context):
    """For how many tokens its activations have memory."""
    return at(context, ROOM + 8 * at(row, 8 * COUNT))


@jit
def item():
    """The number of this warp among all warps of the launch."""
    return (cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x) // LANES


@jit
def items():
    """How many warps the launch has."""
    return cuda.gridDim.x * cuda.blockDim.x // LANES


@jit
def block_sum(x):
    """The sum of x over the threads of a block, in each."""
    parts = cuda.shared.array(WARPS, np.float32)
    warps = (cuda.blockDim.x + LANES - 1) // LANES
    x = warp_sum(x)
    cuda.syncthreads()  # the parts of a sum before have been read
    if cuda.threadIdx.x % LANES == 0:
        parts[cuda.threadIdx.x // LANES] = x
    cuda.syncthreads()
    total = F0
    for i in range(warps):
        total += parts[i]
    return total


@jit
def codes_at(records, groups, t):
    """Where the codes of a token lie."""
    return records + t * groups * GROUP


@jit
def scales_at(records, groups, room, g):
    """Where the scales of a group lie, those of all tokens side by side."""
    return records + (room * groups * GROUP + g * room * 4)


@jit
def put_group(x, records, groups, room, t, g):
    """A group of 32 floats at x, which this warp has written or nobody has, as codes round(x * 127 / max|x|) and scale."""
    lane, top = cuda.threadIdx.x % LANES, F0
    for i in range(lane, GROUP, LANES):
        top = max(top, abs(get_f32(x + 4 * i)))
    top = warp_max(top)
    inverse = LARGEST / top if top > TINY else F0
    codes = codes_at(records, groups, t) + g * GROUP
    for i in range(lane, GROUP, LANES):
        put_i8(codes + i, round_i32(get_f32(x + 4 * i) * inverse))
    if lane == 0:
        put_f32(scales_at(records, groups, room, g) + 4 * t, top * np.float32(1 / 127))
