"""What a step says of the logits of its wanted tokens: enough for most samplers, and a thousandth of the bytes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..kernels.layout import TOP, TOP_BLOCK, TOP_CHUNK, summary_sizes

__all__ = ["TOP_CHUNK", "Summary", "block_peaks", "heat", "read_summary", "summarise", "top"]

LOWEST = float(np.finfo(np.float32).min)
Doubles = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Summary:
    """Views of the executor's memory for M tokens: they hold until its next step.

    logits: float32 [M, V].  ids: int32 [M, K], the K = min(TOP, V) likeliest tokens, likeliest first, equal ones by id;
    values: float32 [M, K], their logits.  sums: float32 [M], the sum of exp(logit - largest) over all tokens, NaN where
    a logit is NaN or the largest is infinite; heated: float32 [M], of exp((logit - largest) / temperature); shares:
    float32 [M, C], what each chunk of TOP_CHUNK logits adds to `heated`.  peaks: float32 [M, B], the largest logit of
    each block of TOP_BLOCK; -inf past V.
    """

    logits: NDArray[np.float32]
    ids: NDArray[np.int32]
    values: NDArray[np.float32]
    sums: NDArray[np.float32]
    heated: NDArray[np.float32]
    shares: NDArray[np.float32]
    peaks: NDArray[np.float32]


def read_summary(
    logits: NDArray[np.float32], peaks: NDArray[np.float32], found: NDArray[np.float32], ids: NDArray[np.int32]
) -> Summary:
    """The summary of logits [M, V] in what the rows `block_peaks` and `top` wrote: `peaks`, `found` and `ids`."""
    vocab = logits.shape[1]
    kept, (chunks, size) = min(TOP, vocab), summary_sizes(vocab)
    return Summary(
        logits,
        ids[:, :kept],
        found[:, :kept],
        sums=found[:, TOP],
        heated=found[:, TOP + 1],
        shares=found[:, TOP + 2 : TOP + 2 + chunks],
        peaks=peaks[:, : size - 2 * chunks],
    )


def summarise(logits: NDArray[np.float32], temperatures: Sequence[float] | None = None) -> Summary:
    """The summary of logits float32 [M, V]; temperatures [M], or None for 1: the definition, in float64."""
    heats = [heat(t) for t in temperatures or [1.0] * len(logits)]
    factors = np.array(heats, np.float32).astype(np.float64)
    wide = logits.astype(np.float64)
    peaks = block_peaks(wide, factors)
    ids, found = top(wide, peaks, factors)
    return read_summary(logits, peaks.astype(np.float32), found.astype(np.float32), ids.astype(np.int32))


def heat(temperature: float) -> float:
    """What logits are multiplied with: 1 / temperature, kept within what float32 can hold."""
    return 1.0 / min(max(temperature, 1e-30), 1e30)


def block_peaks(logits: Doubles, factors: Doubles) -> Doubles:
    """[M, V] to [M, blocks + 2 chunks]: maxima of blocks (NaN is not among them; -inf past V), and of each chunk the
    sum of exp(logit - its largest), then that of exp((logit - its largest) * factor)."""
    chunks, size = summary_sizes(logits.shape[1])
    padded = np.full((len(logits), chunks * TOP_CHUNK), -np.inf)
    padded[:, : logits.shape[1]] = logits
    blocks = np.fmax.reduce(padded.reshape(len(logits), -1, TOP_BLOCK), axis=2, initial=-np.inf)
    with np.errstate(invalid="ignore"):
        away = padded.reshape(len(logits), chunks, TOP_CHUNK) - _largest(blocks, chunks)[:, :, None]
        sums = [np.exp(away).sum(axis=2), np.exp(away * factors[:, None, None]).sum(axis=2)]
    found: Doubles = np.concatenate([blocks, *sums], axis=1)
    assert found.shape[1] == size
    return found


def top(logits: Doubles, peaks: Doubles, factors: Doubles) -> tuple[Doubles, Doubles]:
    """Ids [M, TOP] and values [M, TOP + 2 + chunks] of the likeliest: 0 and -inf where there are fewer; then the two
    sums, and what each chunk adds to the second."""
    count, chunks = len(logits), summary_sizes(logits.shape[1])[0]
    ids, values = np.zeros((count, TOP)), np.full((count, TOP + 2 + chunks), -np.inf)
    for m, row in enumerate(logits):
        numbers = np.flatnonzero(~np.isnan(row))
        best = numbers[np.argsort(-row[numbers], kind="stable")][:TOP]
        ids[m, : len(best)], values[m, : len(best)] = best, row[best]
    blocks, plain, heated = np.split(peaks, [-2 * chunks, -chunks], axis=1)
    with np.errstate(invalid="ignore"):
        away = _largest(blocks, chunks) - np.maximum(values[:, :1], LOWEST)
        values[:, TOP] = (plain * np.exp(away)).sum(axis=1)
        values[:, TOP + 2 :] = heated * np.exp(away * factors[:, None])
        values[:, TOP + 1] = values[:, TOP + 2 :].sum(axis=1)
    return ids, values


def _largest(blocks: Doubles, chunks: int) -> Doubles:
    """The largest logit of each chunk, finite even where there is nothing but -inf."""
    return np.maximum(blocks.reshape(len(blocks), chunks, -1).max(axis=2), LOWEST)
