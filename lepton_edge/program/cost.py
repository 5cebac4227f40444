"""What each operation has to do for a batch at the least, to hold the time that it took against."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels.layout import PAGE, RECORD, SMALL
from ..kernels.ops import OPS, TOKENS
from .batch import Batch
from .table import Program, Row

__all__ = ["costs"]

Ints = NDArray[np.int64]

EXP = 16  # operations of an exponential function


def _conv(values: Mapping[str, Any]) -> tuple[int, int]:
    return values["n"] * (values["taps"] - 1), 2 * values["n"] * values["taps"]


def _scan(values: Mapping[str, Any]) -> tuple[int, int]:
    cells = values["n"] * values["states"]
    return cells, (6 + EXP) * cells


def _heads(values: Mapping[str, Any]) -> tuple[int, int]:
    cells = values["heads"] * values["head_dim"] * values["states"]
    return cells, 5 * cells


def _wkv7(values: Mapping[str, Any]) -> tuple[int, int]:
    cells = values["heads"] * values["head_dim"] ** 2
    return cells, 9 * cells


# Rows with a state: its floats, and the operations of a token.
CELLS: dict[str, Callable[[Mapping[str, Any]], tuple[int, int]]] = {
    "short_conv": _conv,
    "selective_scan": _scan,
    "head_scan": _heads,
    "token_shift": lambda values: (values["ld"], values["ld"]),
    "wkv4": lambda values: (3 * values["ld"], (10 + 5 * EXP) * values["ld"]),
    "wkv7": _wkv7,
}


def costs(program: Program, batch: Batch) -> NDArray[np.float64]:
    """For every row, the bytes that it must move and its operations, float64 [rows, 2].

    Bytes: a product moves its weight, attention the keys and values that are seen, each once for all tokens of a
    sequence; the other rows move the activations that they name, and those with a state read and write it once for
    each sequence.  Operations: a multiplication and an addition are two; those of the small rows are not counted.
    """
    layers = sum(row.op.startswith("attention") for row in program.rows)
    position_bytes = program.page_bytes // max(1, layers * PAGE)  # of one layer
    ids, slots, positions, picks = batch
    small = len(ids) == len(set(slots.tolist())) <= SMALL
    found = np.zeros((len(program.rows), 2))
    for i, row in enumerate(program.rows):
        tokens = len(ids) if row.count == TOKENS else len(picks)
        if tokens == 0 or (small and row.op.startswith("rope")):  # of a small step, attention does that
            continue
        kind = row.op.partition("_")[0]
        if row.products:
            top_k = int(row.values.get("top_k") or 0)
            for weights in (program.weights_of(name) for name in row.products):
                n = len(weights)
                read = n * (1 - (1 - top_k / n) ** tokens) if top_k else 1  # experts, where tokens choose evenly
                work = 2 * weights[0].shape[0] * weights[0].shape[1] * tokens * max(1, top_k)
                found[i] += weights[0].data.nbytes * read, work
        elif kind == "attention":
            found[i] = _attention(row, slots, positions, position_bytes)
        elif row.op in CELLS:
            floats, each = CELLS[row.op](row.values)
            found[i] = tokens * _activations(program, row) + 8 * floats * len(set(slots.tolist())), each * tokens
        else:
            found[i, 0] = tokens * (_activations(program, row) + (position_bytes if kind == "rope" else 0))
    return found


def _attention(row: Row, slots: Ints, positions: Ints, position_bytes: int) -> tuple[int, int]:
    """Each token sees the positions up to its own, at most a window of them."""
    window = int(row.values["window"] or 1 << 60)
    low = np.maximum(0, positions + 1 - window)
    pairs = int((positions + 1 - low).sum())
    span = 0
    for slot in set(slots.tolist()):
        own = slots == slot
        span += int(positions[own][-1]) + 1 - int(low[own][0])
    return span * position_bytes, 4 * int(row.values["heads"] or 0) * int(row.values["head_dim"] or 0) * pairs


def _activations(program: Program, row: Row) -> int:
    """Bytes of one token's row in every activation that is named; an embedding reads a row of its weight too."""
    given = (row.values.get(name) for name, kind in OPS[row.op].fields if kind == "a")
    named = [str(name) for name in given if name is not None]
    total = 0
    for buffer in (program.buffers[name] for name in named):
        # Records are shared by rows of several sizes: this row fills its own groups of them.
        shared = buffer.records and "groups" in row.values
        total += int(row.values["groups"] or 0) * RECORD if shared else buffer.token_bytes
    if "w" in row.values:
        weight = program.weights[str(row.values["w"])]
        total += weight.data.nbytes // weight.shape[0]
    return total
