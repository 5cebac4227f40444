"""What transformers makes of the other modules' models on the way, in few numbers: each array times a fixed vector.

tools/make_golden_traces.py stores them in traces.npz: NAME states float32 [L + 1, T], of hidden states [T, H] times a
vector of H numbers; NAME attentions [heads of all layers, T], of attentions [heads, T, S] times one of S; and, for
encoder-decoders, the same of `NAME encoder` and `NAME cross`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .encoders import ENCODERS
from .families import FAMILIES
from .recipe import GOLDEN, RECIPES, _normal
from .seq2seq import PAIRS

HEADS = ("_classes", "_tokens", "_span", "_mask")  # are no part of a trace
BODIES = [encoder for encoder in ENCODERS if not encoder.name.endswith(HEADS)]
DECODERS = [*FAMILIES, *RECIPES]
PROJECTED = ("opt_narrow", "opt_350m")  # transformers' last states of these are those that the projection gives
BEHIND = ("mamba", "rwkv")  # of these transformers has the states after each layer, and then the last ones, normed
NAMES = [model.name for model in (*BODIES, *DECODERS, *PAIRS)]


def states(found: Sequence[Any]) -> np.ndarray:
    """Of hidden states [T, H]."""
    return np.stack([_times(values) for values in found])


def attentions(found: Sequence[Any]) -> np.ndarray:
    """Of attentions [heads, T, S]."""
    return np.concatenate([_times(values) for values in found])


def _times(values: Any) -> np.ndarray:
    values = np.asarray(values, np.float64)
    return values @ _normal("traces", values.shape[-1])


def load() -> dict[str, np.ndarray]:
    """The stored numbers."""
    with np.load(GOLDEN / "traces.npz") as file:
        return dict(file)
