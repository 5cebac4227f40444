"""The program: rows of operations, and the buffers, weights and parameters that they name.

Nothing here is an address yet: an executor allocates the buffers and binds the rows (`Program.bind`), or reads the
names themselves (`reference.py`).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..checkpoint.store import Weight
from ..kernels.layout import GROUP, RECORD
from ..kernels.ops import ALWAYS, BARRIER, COUNT, KERNEL, OPS, RECURRENT, ROW, TOKENS
from ..models.rope import RopeSpec

__all__ = ["Buffer", "Program", "Row", "pad"]

Value = int | float | str | None


def pad(n: int, multiple: int = GROUP) -> int:
    """n rounded up to a multiple."""
    return -(-n // multiple) * multiple


@dataclass(frozen=True)
class Buffer:
    """An activation: `columns` floats for each token (padded to `ld`, the padding is zero), or their int8 records.

    integers: int32 instead of floats.  within: it is a part of that buffer, from column `first` on.
    """

    name: str
    columns: int
    count: int = TOKENS
    records: bool = False
    integers: bool = False
    within: "Buffer | None" = None
    first: int = 0

    @property
    def ld(self) -> int:
        """Floats from one token to the next."""
        return self.within.ld if self.within else pad(self.columns)

    @property
    def token_bytes(self) -> int:
        """Bytes that one token takes."""
        return self.ld // GROUP * RECORD if self.records else self.ld * 4


@dataclass(frozen=True)
class Row:
    """One operation.  `values` maps the op's fields to integers, floats, or names of buffers, weights, parameters."""

    op: str
    values: Mapping[str, Value]
    count: int = TOKENS
    barrier: int = ALWAYS
    label: str = ""

    @property
    def part(self) -> str:
        """The label without its layer: what the rows of all layers have in common."""
        return re.sub(r"^layer \d+ ?", "", self.label)


    @property
    def products(self) -> list[str]:
        """The weights that all tokens are multiplied with, or the tables of experts' weights."""
        if self.op.partition("_")[0] not in ("matmul", "gated", *RECURRENT):
            return []
        named = [self.values[name] for name, kind in OPS[self.op].fields if kind == "w"]
        return [str(name) for name in named if name is not None]


@dataclass
class Program:
    """A whole model.  `tables` are the names of the weights of a layer's experts; `params` are float32 vectors, padded
    with zeros; `ropes` are tables of angles, [context, dim] of cosines and then sines; `page_bytes` is one page of the
    KV cache, `memory_bytes` what is used of a memory's page, `state_bytes` the recurrent state of a sequence; after
    `state_rows` rows the hidden states are in the buffer `states`, an encoder's of all tokens, a decoder's of the
    wanted ones; after `logits_rows` the logits are
    there, if there are any; before row `layer_rows[i]`, `x` is what layer i reads."""

    vocab: int
    context: int
    kv_dtype: str
    rows: list[Row] = field(default_factory=list)
    buffers: dict[str, Buffer] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)
    tables: dict[str, tuple[str, ...]] = field(default_factory=dict)
    params: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    ropes: dict[str, RopeSpec] = field(default_factory=dict)
    page_bytes: int = 0
    memory_bytes: int = 0
    state_bytes: int = 0
    scratch_bytes: int = 0
    partial_bytes: int = 0
    query_tile: int = 1
    states: str = "x"
    layer_rows: list[int] = field(default_factory=list)
    state_rows: int = 0
    logits_rows: int = 0

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights; a decode step reads each once (of the embedding, one row if it is not tied)."""
        return sum(weight.data.nbytes for weight in self.weights.values())

    @property
    def step_bytes(self) -> int:
        """Bytes of weights that a decode step of one token reads."""
        used = {name: int(row.values.get("top_k") or 0) for row in self.rows for name in row.products}
        return sum(self.weights_of(name)[0].data.nbytes * max(1, top_k) for name, top_k in used.items())

    def weights_of(self, name: str) -> list[Weight]:
        """A weight by its name, or the weights of a table."""
        return [self.weights[held] for held in self.tables.get(name, (name,))]

    def need_scratch(self, nbytes: int) -> None:
        """See to it that each thread has so much scratch memory."""
        self.scratch_bytes = max(self.scratch_bytes, pad(nbytes, 128))

    def copied(self) -> set[str]:
        """The activations of which every thread has its own in a small step."""
        found: set[Value] = set()
        for op, values in ((row.op, row.values) for row in self.rows):
            if (op.endswith("norm") and values["own"]) or (op == "dispatch" and not values["sorted"]):
                found |= {values["y"], values["records"]}
            elif op == "route":
                found |= {values["shares"], values["places"], values["order"]}
        return {str(name) for name in found if name is not None}

    def ops(self) -> list[str]:
        """The ops that the program uses, each once."""
        return list(dict.fromkeys(row.op for row in self.rows))

    def bind(self, kernels: Mapping[str, int], address: Callable[[str, str], int]) -> NDArray[np.int64]:
        """The table that the kernels walk, int64 [rows, ROW].

        `kernels` maps an op to its address; `address(kind, name)` gives that of a buffer ('a'), weight or
        table of addresses of weights ('w'), parameter or table of angles ('p').
        """
        table = np.zeros((len(self.rows), ROW), np.int64)
        for i, row in enumerate(self.rows):
            table[i, KERNEL], table[i, BARRIER], table[i, COUNT] = kernels[row.op], row.barrier, row.count
            op = OPS[row.op]
            if not op.complete(row.values):
                raise AssertionError(f"row {i}: fields of {row.op} are {op.fields}, got {list(row.values)}")
            for name, kind in op.fields:
                value = row.values.get(name)
                if kind in "awp":
                    table[i, op.index(name)] = 0 if value is None else address(kind, str(value))
                elif kind == "f":
                    table[i, op.index(name)] = int(np.float32(value or 0).view(np.int32))
                else:
                    table[i, op.index(name)] = int(value or 0)
        return table
