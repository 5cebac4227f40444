"""What routing to experts means, in NumPy: who goes where, and in which order the products take them."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["choose", "sort_pairs"]

Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]


def choose(logits: Doubles, top_k: int, normalise: bool) -> tuple[Integers, Doubles]:
    """The experts [T, top_k] with the largest logits [T, E], largest first and equal ones by number, and their shares:
    of the softmax over all experts, or, `normalise`, over the chosen ones (arXiv:1701.06538, arXiv:2401.04088).

    >>> choose(np.array([[0.0, 1.0, 1.0, -1.0]]), 2, True)
    (array([[1, 2]]), array([[0.5, 0.5]]))
    """
    chosen = np.argsort(-logits, axis=1, kind="stable")[:, :top_k]
    peak = logits.max(axis=1, keepdims=True)
    weights = np.exp(np.take_along_axis(logits, chosen, axis=1) - peak)
    whole = weights if normalise else np.exp(logits - peak)
    return chosen, weights / whole.sum(axis=1, keepdims=True)


def sort_pairs(chosen: Integers) -> tuple[Integers, Integers]:
    """Experts [T, top_k] -> for each pair where it is in the order of the experts, [T, top_k], and that order,
    [T * top_k, 4]: pair, expert, and where the expert's pairs begin and end.

    >>> sort_pairs(np.array([[2, 0], [0, 1]]))[1].tolist()
    [[1, 0, 0, 2], [2, 0, 0, 2], [3, 1, 2, 3], [0, 2, 3, 4]]
    """
    flat = chosen.reshape(-1)
    pairs = np.argsort(flat, kind="stable")
    experts = flat[pairs]
    first, stop = (np.searchsorted(experts, experts, side) for side in ("left", "right"))  # type: ignore[call-overload]
    places = np.empty(len(flat), np.int64)
    places[pairs] = np.arange(len(flat))
    return places.reshape(chosen.shape), np.stack([pairs, experts, first, stop], axis=1)
