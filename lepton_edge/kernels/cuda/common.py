"""What every CUDA kernel needs: fields of its row, sums over a block, int8 groups."""

import numpy as np
from numba import cuda

from ..layout import GROUP
from .layout import ROOM
from .words import LANES, get_f32, get_i64, jit, max_nan, put_f32, put_i8, round_i32, warp_max, warp_sum

__all__ = [
    "F0", "F1", "at", "block_max", "block_sum", "codes_at", "count", "more", "put_group", "room",
    "scales_at", "warp_here", "warps_there",
]  # fmt: skip

F0, F1 = np.float32(0), np.float32(1)
TINY = np.float32(1e-30)  # a group below this is zero: 127 divided by it would overflow
LARGEST = np.float32(127)
WARPS = 32  # of a block, at most


@jit
def at(row, field):
    """An int64 field of a row or of the header."""
    return get_i64(row + field)


@jit
def count(extra):
    """How many tokens the launch is for."""
    return extra & 0xFFFFFFFF


@jit
def more(extra):
    """The launch's other number: see its kernel."""
    return extra >> 32


@jit
def room(row):
    """For how many tokens its activations have memory."""
    return at(row, 8 * ROOM)


@jit
def block_sum(x):
    """The sum of x over the threads of a block, in each."""
    parts = cuda.shared.array(WARPS, np.float32)
    x = warp_sum(x)
    cuda.syncthreads()  # the parts of a sum before have been read
    if cuda.threadIdx.x % LANES == 0:
        parts[cuda.threadIdx.x // LANES] = x
    cuda.syncthreads()
    total = F0
    for i in range((cuda.blockDim.x + LANES - 1) // LANES):
        total += parts[i]
    return total


@jit
def block_max(x):
    """The largest x over the threads of a block, in each."""
    peaks = cuda.shared.array(WARPS, np.float32)
    x = warp_max(x)
    cuda.syncthreads()
    if cuda.threadIdx.x % LANES == 0:
        peaks[cuda.threadIdx.x // LANES] = x
    cuda.syncthreads()
    for i in range((cuda.blockDim.x + LANES - 1) // LANES):
        x = max_nan(x, peaks[i])
    return x


@jit
def codes_at(records, groups, t):
    """Where the codes of a token lie."""
    return records + t * groups * GROUP


@jit
def scales_at(records, groups, room, g):
    """Where the scales of a group lie, those of all tokens side by side."""
    return records + (room * groups * GROUP + g * room * 4)


@jit
def put_group(value, x, records, groups, room, t, g):
    """A group of 32 floats as codes round(x * 127 / max|x|) and scale, by a warp: each lane has its own in `value`;
    where there are fewer lanes (`simulated.py`), they lie at x."""
    lane, top = cuda.threadIdx.x % LANES, abs(value)
    if LANES < GROUP:
        for i in range(lane, GROUP, LANES):
            top = max_nan(top, abs(get_f32(x + 4 * i)))
    top = warp_max(top)
    inverse = LARGEST / top if top > TINY else F0
    codes = codes_at(records, groups, t) + g * GROUP
    if LANES < GROUP:
        for i in range(lane, GROUP, LANES):
            put_i8(codes + i, round_i32(get_f32(x + 4 * i) * inverse))
    else:
        put_i8(codes + lane, round_i32(value * inverse))
    if lane == 0:
        put_f32(scales_at(records, groups, room, g) + 4 * t, top * np.float32(1 / 127))


@jit
def warp_here():
    """The number of this warp along x: often that of its 32 columns; y then counts tokens."""
    return (cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x) // LANES


@jit
def warps_there():
    """How many warps there are along x."""
    return cuda.gridDim.x * cuda.blockDim.x // LANES
