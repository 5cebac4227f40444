"""Sizes and offsets that the CUDA kernels and the code that feeds them agree on.  Plain numbers.

The op table, the packed weights and the names of the ops are those of the CPU (`kernels/ops.py`, `kernels/layout.py`).
Activations have other shapes in int8: all codes [room, 32 groups], then float scales [groups, room], where room is the
number of tokens that there is memory for, so that neighbours in a warp read neighbours.  A head's keys and values take
as much of a page as on the CPU, but lie otherwise: K [PAGE, D], then V [PAGE, D], as f16 or f32; or as q8: codes [PAGE,
32 groups] of K, then V, then f16 scales [PAGE, groups] of both.
"""

from ..ops import BARRIER

__all__ = [
    "COUNTERS", "ENDS", "HEADER", "HEATS", "IDS", "MAX_HEAD", "MEMORY_ENDS", "MEMORY_PAGES", "PAGES", "PARTIALS",
    "PARTS", "PICKS", "POSITIONS", "PROBE_CHAINS", "PROBE_OPERATIONS", "ROOM", "SEGMENTS", "SPLITS", "TILES",
]  # fmt: skip

# The second field of a row, which says on the CPU when threads meet, is the room of the row's activations here.
ROOM = BARRIER

# The header of a step, int64 each, as byte offsets: addresses of int64 lists for the tokens, but for PICKS, of the
# wanted ones, HEATS, float32 of those, and TILES, pairs (first token, tokens).  PAGES and MEMORY_PAGES: for each token
# the address of the list of its sequence's pages, and of its memory's.
(
    IDS, POSITIONS, PICKS, SEGMENTS, ENDS, MEMORY_ENDS, HEATS, TILES, PAGES, MEMORY_PAGES, PARTIALS,
) = (8 * i for i in range(11))  # fmt: skip
HEADER = 8 * 11

SPLITS = 64  # parts that the positions of a token are split into, at most
PARTS = 1024  # parts of all tokens and key heads of a step, at most
COUNTERS = 4 * PARTS  # bytes of a counter for each (token, key head), at PARTIALS, before the parts
PROBE_CHAINS = 8  # products of the probe that do not wait for each other
PROBE_OPERATIONS = PROBE_CHAINS * 2 * 16 * 8 * 32  # of a warp in one of its rounds
MAX_HEAD = 256  # numbers of a head, at most

