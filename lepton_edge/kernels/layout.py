"""Sizes and offsets that the kernels and the code that feeds them agree on.  Plain numbers: Numba reads them."""

# Weights and activations.
GROUP = 32  # columns that share a scale
BLOCK = 16  # rows of a packed weight that lie interleaved
SCALES = 2 * BLOCK  # bytes of a group's scales, one a row; its codes follow
Q4_GROUP, Q8_GROUP = SCALES + BLOCK * GROUP // 2, SCALES + BLOCK * GROUP  # bytes of a group of 16 rows
GROUP_BYTES = {"q4": Q4_GROUP, "q8": Q8_GROUP, "mxfp4": Q4_GROUP}
RECORD = 40  # bytes of a quantized group of one token: 32 values, f32 scale, i32 -8 * sum (where q4 starts)

# Row-major weights: the sums over the lanes are taken after so many columns at most (twice as many for pairs of bf16).
# Many tokens share a panel of so many rows of them; a thread's scratch holds the sums of tiles, then so many tokens,
# each X_STRIDE bytes from the next (no power of two, for the sake of L1), then the panel.
CHUNK, PANEL_ROWS, PANEL_TOKENS = 512, 96, 12
X_STRIDE = CHUNK * 4 + 64
PANEL_BYTES = 5 * PANEL_TOKENS * 128 + PANEL_TOKENS * X_STRIDE + CHUNK * PANEL_ROWS * 4

# Packed weights, tiles of 16 tokens (see `matmul_grid.py`): at most so many groups of so many blocks are unpacked at a
# time, for at most so many tokens, whose sums a thread's scratch holds too, and a tile of sums for each group.
GRID_BLOCKS, GRID_GROUPS, GRID_SPAN = 4, 10, 512
GRID_BYTES = GRID_BLOCKS * (GRID_GROUPS * (64 + BLOCK * GROUP) + GRID_SPAN * 64) + GRID_GROUPS * 1024

# Row-major bf16 and lots of 16 tokens (see `matmul_pairs.py`): so many columns of so many tokens are rounded at a time,
# more of fewer, and at most PAIR_PANEL; of 32 rows these are transposed.  Behind lie sums of 16 tokens and 32 rows.
PAIR_COLUMNS, PAIR_SPAN, PAIR_PANEL = 512, 512, 2048
PAIR_BYTES = PAIR_COLUMNS * 2 * PAIR_SPAN + PAIR_PANEL * 64 + 2048
MATMUL_BYTES = max(PANEL_BYTES, GRID_BYTES, PAIR_BYTES)

# Experts: a (token, expert) pair in their order is four int32: token * top_k + which of the token's experts it is, the
# expert, and where that expert's pairs begin and end.
PAIR = 16


def route_scratch(experts: int) -> int:
    """Bytes that a thread needs to choose among that many experts: a counter and a float for each."""
    return experts * 8 + -(-experts // 16) * 64


def rnn_scratch(gates: int, units: int) -> int:
    """Bytes that a thread needs for a recurrent layer: a panel, the products of all gates, the state as records."""
    return MATMUL_BYTES + 4 * GROUP * -(-gates * units // GROUP) + -(-units // GROUP) * RECORD


# The key/value cache.  A page holds, for each layer and key/value head, K and then V of PAGE positions.
# f32, f16: K as [PAGE / 16][D][16] and V as [PAGE][D'], D' = D rounded up to 16: scores of 16 positions are one
# register, and so are 16 values of a V row.
# q8: K as a q8 weight whose rows are positions (see `quant/formats/q8.py`): for each 16 of them [groups] of 16 f16
# scales and codes + 128 as [8][16 positions][4 columns].  V as codes [PAGE][groups * 32], then f16
# scales as [groups][PAGE].
PAGE = 128  # positions in a page
MAX_QUERY_ROWS = 8  # query rows (token x head) that share a register of keys or values, on any instruction set
QUERY_TILE = 64  # tokens of one sequence that attention takes together, at most
STATE = 80  # bytes of a query row's running sums, 16 lanes, and maximum; the rows of a chunk lie together


# What bends scores: byte offsets of a slope for each query row, of the cap, of the numbers 0 to 15, then of int64:
# the queries' rows in the table of distances, how far that reaches, and DeBERTa's terms (see `attention_bias.py`).
SLOPE, CAPPED, NUMBERS, ROW_BIAS, REACH, ROW_TERMS, KEY_TERMS, TERMS_LD, INDEX, FACTOR = (
    0, 32, 64, 128, 192, 200, 264, 272, 280, 288,
)  # fmt: skip
BENDS = 320  # bytes of all that
LIMIT = 24  # bytes of a query row's limits: the first and the last position that it sees, and its own
EDGE = 15  # entries that a table of distances repeats at both ends, so that any 16 neighbours can be read


def kv_bytes(kv_dtype: str, head_dim: int) -> int:
    """Bytes of one head's keys and values in a page."""
    padded, groups = -(-head_dim // 16) * 16, -(-head_dim // GROUP)
    if kv_dtype == "q8":
        return 2 * PAGE * groups * (GROUP + 2)
    return PAGE * (head_dim + padded) * {"f16": 2, "f32": 4}[kv_dtype]


def attention_scratch(rows: int, head_dim: int) -> int:
    """Bytes that a thread's attention needs for a tile of `rows` query rows: see `attention.places`."""
    rows, padded = rows + MAX_QUERY_ROWS, -(-head_dim // GROUP) * GROUP
    page = 4 * PAGE * (MAX_QUERY_ROWS + 2 * padded + padded // GROUP)  # scores, keys, values, their scales
    return page + LIMIT * MAX_QUERY_ROWS + 64 + BENDS + rows * (8 * padded + STATE)


# The executor's context: byte offsets of its int64 fields.
(
    PROGRAM, ROWS, THREADS, SYNC, SCRATCH, SCRATCH_STRIDE, YIELD, COUNTS, IDS, POSITIONS, SLOTS, PICKS, PAGES,
    PAGES_STRIDE, TILES, STAMPS, PARTIALS, HEATS, FIRSTS, NEXT, STATES, SEGMENTS, ENDS, MEMORY_SLOTS, MEMORY_ENDS,
) = (8 * i for i in range(25))  # fmt: skip
CONTEXT_FIELDS = 25
# COUNTS points at [tokens, wanted tokens, attention tiles, 1 for a small step, sequences]; TILES at pairs (first token,
# tokens); FIRSTS at the first token of each sequence, NEXT at the token that follows each token in its sequence (-1
# for none); STATES at the address of each slot's state; HEATS at a float32 for each wanted token, 1 / its temperature.
# SEGMENTS: of each token; ENDS: the last position of its sequence; MEMORY_SLOTS, MEMORY_ENDS: the slot of what its
# sequence attends to beside itself, and the last position there.
# STAMPS is 0 or points at clocks [threads, ROWS + 1, 2]: when a thread began its share of each
# row, and ended it; at ROWS, the end.

# A small step is of at most so many tokens, each of another sequence. In it every thread computes norms for itself, and
# rotates and stores a head where it attends to it: that costs less than waiting for the others.
SMALL = 4

# The summary of a token's logits: the likeliest tokens, found through the maxima of blocks of neighbours.
TOP = 128  # tokens that a summary names
TOP_BLOCK = 32  # logits that share a maximum
TOP_CHUNK = 2048  # logits that one thread takes at a time


def summary_sizes(vocab: int) -> tuple[int, int]:
    """(chunks of a token's logits, floats of its row of `peaks`: a maximum for each block, two sums for each chunk)."""
    chunks = -(-vocab // TOP_CHUNK)
    return chunks, chunks * (TOP_CHUNK // TOP_BLOCK + 2)


# Attention of single tokens over a long cache: when there are few (tile, head) items, the pages of each are split into
# parts, so that all threads have work.  PARTIALS points at a counter for each item, then a slot for each part.
SPLIT_ITEMS = 32  # items from which on none is split
PART_PAGES, MAX_PARTS = 4, 64  # pages in a part, at least; parts of an item, at most


def partial_bytes(rows: int, head_dim: int) -> int:
    """Bytes of the memory at PARTIALS for items of `rows` query rows."""
    rows, padded = rows + MAX_QUERY_ROWS, -(-head_dim // GROUP) * GROUP
    return 8 * SPLIT_ITEMS + SPLIT_ITEMS * MAX_PARTS * rows * (4 * padded + STATE)


PROBE_BYTES = 384  # what a probe's operands come from

# The sync block: byte offsets, a cache line pair each, so that waiting threads do not disturb the others.
# LOST: clock cycles that threads have waited in vain, all together; TAKEN: cycles that the step took.
# FINISHED is an int64 for each thread: it has left the step.
ARRIVED, GENERATION, CANCEL, STOPPED, LOST, TAKEN, FINISHED = (128 * i for i in range(7))
MAX_THREADS = 256
SYNC_BYTES = FINISHED + 8 * MAX_THREADS
