"""What is added to scores besides ALiBi: a number for each bucket of distances, and DeBERTa's terms."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ...kernels.layout import EDGE
from ...kernels.ops import ALWAYS, NEVER
from ...models.spec import Attention, Disentangled, Distances
from ..table import pad

if TYPE_CHECKING:
    from ..build import Builder

__all__ = ["bias_fields"]

LOG2E = 1 / np.log(2)


def bias_fields(b: "Builder", spec: Attention, i: int, heads: dict[str, Any]) -> dict[str, Any]:
    """The fields of attention that say what to add, of layer i, whose q and k are described by `heads`."""
    if spec.distances is not None:
        return dict(distances=_distances(b, spec.distances, i), span=spec.distances.reach)
    if spec.disentangled is not None:
        return _terms(b, spec, spec.disentangled, i, heads)
    return {}


def _distances(b: "Builder", spec: Distances, i: int) -> str:
    """The numbers of all distances -reach..reach, as logarithms to base 2, head by head (see `kernels.ops`)."""
    name = b.spec.names.name("distances", i)
    if name not in b.program.params:
        away = np.arange(-spec.reach - EDGE, spec.reach + EDGE + 1)
        table = b.weight(name).to_f32()[spec.bucket(np.clip(away, -spec.reach, spec.reach))].T * np.float32(LOG2E)
        padded: Any = np.zeros((len(table), pad(len(away), 16)), np.float32)
        padded[:, : len(away)] = table
        b.keep(name, padded.reshape(-1))
    return name


def _terms(b: "Builder", spec: Attention, terms: Disentangled, i: int, heads: dict[str, Any]) -> dict[str, Any]:
    """The products of q with what the weights of k make of the table of distances, and the other way round."""
    rows, d, reach = 2 * terms.buckets, spec.head_dim, b.program.context
    index = b.keep("index", terms.index(np.arange(reach, -reach - 1, -1)).astype(np.float32))
    found: dict[str, Any] = dict(span=reach, ldh=rows, index=index)
    table = _normed(b, terms, i)
    for field, x, weight, used in (("q_terms", "q", "k", terms.query), ("k_terms", "k", "q", terms.key)):
        y = b.buffer(field, spec.heads * rows)
        found[field], found["ldr"] = y, b.ld(y)
        made = _projected(b, table, weight, i) * np.float32(used)
        for head in range(spec.heads):
            part = made[:, head * d : (head + 1) * d]
            last = field == "k_terms" and head == spec.heads - 1
            b.multiply(b.made(f"layer {i} {field} {head}", part), f"layer {i} {field}",
                       b.part_of(heads[x], f"{x} {head}", head * d), b.part_of(y, f"{field} {head}", head * rows),
                       bias=None, barrier=ALWAYS if last else NEVER)  # fmt: skip
    return found


def _normed(b: "Builder", terms: Disentangled, i: int) -> np.ndarray:
    """The table of distances, normed where it is, float32 [rows, hidden]."""
    table = b.weight(b.spec.names.name("rel", i)).to_f32()
    if terms.norm is None:
        return table
    wide = table.astype(np.float64)
    away = wide - wide.mean(axis=1, keepdims=True)
    normed = away / np.sqrt((away**2).mean(axis=1, keepdims=True) + terms.norm.eps)
    weight, bias = (b.weight(b.spec.names.name(f"rel_norm{end}", i)).to_f32() for end in ("", ".bias"))
    return np.asarray(normed * weight + bias, np.float32)


def _projected(b: "Builder", table: np.ndarray, part: str, i: int) -> np.ndarray:
    """The table through a layer's weight and bias, float32 [rows, heads * head_dim]."""
    names = b.spec.names
    weight, bias = (b.weight(names.name(f"{part}{end}", i)).to_f32() for end in ("", ".bias"))
    return np.asarray(table.astype(np.float64) @ weight.T.astype(np.float64) + bias, np.float32)
