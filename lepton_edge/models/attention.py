"""Attention as a mixer: its shape, its positions, what a token sees, and what is added to scores."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from .parts import Norm, Parts, linear
from .rope import RopeSpec

__all__ = ["Attention", "Disentangled", "Distances"]


@dataclass(frozen=True)
class Distances:
    """A learned number for each head and bucket of distances is added to scores (arXiv:1910.10683, section 2.1).

    Distances from `reach` on share the last bucket.  both: half of the buckets are for what comes later.
    """

    buckets: int = 32
    reach: int = 128
    both: bool = True

    def bucket(self, distances: NDArray[np.int64]) -> NDArray[np.int64]:
        """The buckets of distances, position seen - own one; in float32 where the boundaries are computed so."""
        count = self.buckets // 2 if self.both else self.buckets
        away = np.abs(distances) if self.both else np.maximum(-distances, 0)
        exact = count // 2
        part = np.log(np.maximum(away, 1).astype(np.float32) / np.float32(exact)) / np.float32(
            math.log(self.reach / exact)
        )
        far = np.minimum(exact + (part * np.float32(count - exact)).astype(np.int64), count - 1)
        found: NDArray[np.int64] = np.where(away < exact, away, far)
        return found + np.where(distances > 0, count, 0) if self.both else found


@dataclass(frozen=True)
class Disentangled:
    """Scores have two more terms: what the query says of the distance, and what the key says of it (arXiv:2006.03654).

    A table `rel` [2 * buckets, hidden], normed by `rel_norm` where `norm` is given, goes through the weights of k for
    the first term (`query`), through those of q for the second (`key`).  reach: where it is above 0, distances beyond
    half of the buckets share buckets by their logarithms, up to about there.
    """

    buckets: int
    reach: int = 0
    query: bool = True
    key: bool = True
    norm: Norm | None = None

    def index(self, distances: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of the table for distances, own position - the one seen (DeBERTa-v2's `make_log_bucket_position`)."""
        away, middle = np.abs(distances), self.buckets // 2
        rows = distances
        if self.reach:
            most = np.log(np.float32((self.reach - 1) / middle))  # as above: the last distance has to give 1 exactly
            part = np.log((np.maximum(away, 1) / middle).astype(np.float32)) / most
            far = np.ceil(part * np.float32(middle - 1)) + middle
            rows = np.where(away <= middle, distances, far * np.sign(distances)).astype(np.int64)
        found: NDArray[np.int64] = np.clip(rows + self.buckets, 0, 2 * self.buckets - 1)
        return found


@dataclass(frozen=True)
class Attention:
    """A mixer: attention of `heads` query heads that share `kv_heads` key and value heads.

    rope: None for no rotary positions.  window: None for full attention, or how many positions a token sees, itself
    included (position p sees p - window + 1 .. p).  scale: of the scores; None for 1 / sqrt(head_dim).
    layout: `apart`, q, k and v have a weight each; `joined`, one weight `qkv` has the rows of q, then k, then v;
    `grouped`, it has for each key head the rows of its queries, its key, and its value.
    qk_norm: how q and k are normed, over a head (`head`), with weights for each head in one tensor (`heads`) or in one
    each (`each`), or over `all` heads at once.
    cap: scores become cap * tanh(scores / cap).  clip: q, k and v are cut off at +-clip.  0 for neither.
    slopes: ALiBi's (arXiv:2108.12409), one for each query head, or none.  sinks: each query head has a learned score
    that takes its share of the softmax, and no value (arXiv:2309.17453).
    growth: q at position p is multiplied by 1 + growth * ln(1 + p // growth_every) (arXiv:2501.19399, as Llama 4 and
    Ministral 3 have it); not with norms of heads, which would take it back.  0 for none.
    sight: what a token sees: `causal`, positions up to its own; `whole`, its whole sequence, with a window as many
    positions behind as before; `memory`, what an encoder has left, whose weights of k and v are the encoder's.  prefix:
    of the parts' names.
    """

    PARAMETERS: ClassVar[tuple[str, ...]] = ("q_norm", "k_norm", "distances", "rel")  # never packed

    heads: int
    kv_heads: int
    head_dim: int
    rope: RopeSpec | None = None
    window: int | None = None
    qkv_bias: bool = False
    o_bias: bool = False
    layout: str = "apart"
    scale: float | None = None
    qk_norm: Norm | None = None
    qk_norm_over: str = "head"
    cap: float = 0.0
    clip: float = 0.0
    slopes: tuple[float, ...] = ()
    sinks: bool = False
    growth: float = 0.0
    growth_every: int = 1
    sight: str = "causal"
    distances: Distances | None = None
    disentangled: Disentangled | None = None
    prefix: str = ""

    @property
    def group(self) -> int:
        """Query heads that share a key head."""
        return self.heads // self.kv_heads

    def parts(self, hidden: int) -> Parts:
        """The tensors of a layer."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        rows = {"q": query, "k": key, "v": key} if self.layout == "apart" else {"qkv": query + 2 * key}
        if self.sight == "memory":
            del rows["k"], rows["v"]
        parts: Parts = {}
        for part, outputs in rows.items():
            parts |= linear(self.prefix + part, outputs, hidden, self.qkv_bias)
        if self.qk_norm is not None:
            for part, heads in (("q_norm", self.heads), ("k_norm", self.kv_heads)):
                if self.qk_norm_over == "heads":
                    parts[part] = (heads, self.head_dim)
                elif self.qk_norm_over == "each":
                    parts |= {f"{part}@{head}": (self.head_dim,) for head in range(heads)}
                else:
                    parts |= self.qk_norm.parts(part, self.head_dim * (heads if self.qk_norm_over == "all" else 1))
        if self.sinks:
            parts["sinks"] = (self.heads,)
        if self.distances is not None:
            parts["distances"] = (self.distances.buckets, self.heads)
        if self.disentangled is not None:
            parts["rel"] = (2 * self.disentangled.buckets, hidden)
            if self.disentangled.norm is not None:
                parts |= self.disentangled.norm.parts("rel_norm", hidden)
        return parts | linear(self.prefix + "o", hidden, query, self.o_bias)

    def memory_parts(self, hidden: int) -> Parts:
        """The tensors that make the keys and values of `memory` from an encoder's hidden states."""
        key = self.kv_heads * self.head_dim
        return {
            name: shape
            for part in "kv"
            for name, shape in linear(self.prefix + part, key, hidden, self.qkv_bias).items()
        }
