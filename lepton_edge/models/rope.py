"""Rotary position embeddings (RoFormer, arXiv:2104.09864) and the ways in which models stretch them.

Pair i of the first `dim` numbers of a head (i and i + dim/2, the "half" layout of Hugging Face, or 2 i and 2 i + 1)
turns by p * frequency[i] at position p, frequency[i] = theta^(-2i/dim). A scaling changes the frequencies, and YaRN the
length of the vector too.
All arithmetic here is float64; only the finished tables are float32.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .fields import Fields

__all__ = ["Dynamic", "Linear", "Llama3", "Long", "RopeSpec", "Scaling", "Yarn", "read_rope"]

MAX_POSITIONS = 1 << 24


def plain_frequencies(theta: float | np.ndarray, dim: int) -> np.ndarray:
    """theta^(-2i/dim), float64 [..., dim/2]; theta is a number, or an array [..., 1] to get one row for each."""
    return theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)


@dataclass(frozen=True)
class Linear:
    """Position interpolation (arXiv:2306.15595): every position is divided by `factor`."""

    factor: float
    kind: ClassVar[str] = "linear"
    attention_factor: ClassVar[float] = 1.0

    def frequencies(self, theta: float, dim: int, positions: np.ndarray) -> np.ndarray:
        """float64 [dim/2], the same for all positions."""
        return plain_frequencies(theta, dim) / self.factor


@dataclass(frozen=True)
class Dynamic:
    """Dynamic NTK scaling: theta grows with the length once that exceeds `original`, the trained context.

    Defined per position: the token at position p uses the theta of a sequence of max(p + 1, original) tokens. That is
    what transformers computes when it decodes step by step, and unlike its prefill it does not depend on the chunks
    in which a prompt arrives.
    """

    factor: float
    original: int
    kind: ClassVar[str] = "dynamic"
    attention_factor: ClassVar[float] = 1.0

    def frequencies(self, theta: float, dim: int, positions: np.ndarray) -> np.ndarray:
        """float64 [T, dim/2], one row for each position; dim must exceed 2."""
        length = np.maximum(positions + 1.0, self.original)
        stretch = self.factor * length / self.original - (self.factor - 1.0)
        return plain_frequencies((theta * stretch ** (dim / (dim - 2)))[:, None], dim)


@dataclass(frozen=True)
class Llama3:
    """Llama 3.1's scaling: waves longer than original/low_freq_factor are stretched by `factor`, those shorter than
    original/high_freq_factor are kept, those between are blended."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original: int
    kind: ClassVar[str] = "llama3"
    attention_factor: ClassVar[float] = 1.0

    def frequencies(self, theta: float, dim: int, positions: np.ndarray) -> np.ndarray:
        """float64 [dim/2], the same for all positions."""
        frequency = plain_frequencies(theta, dim)
        turns = self.original * frequency / (2 * math.pi)
        kept = np.clip((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor), 0.0, 1.0)
        return frequency * (kept + (1.0 - kept) / self.factor)


@dataclass(frozen=True)
class Yarn:
    """YaRN (arXiv:2309.00071): pairs that turn more than beta_fast times within `original` positions are kept, those
    that turn less than beta_slow times are stretched by `factor`, with a ramp over the pair's index between them.

    `attention_factor` lengthens every rotated vector (the paper's temperature, folded into the tables).
    `truncate` widens the ramp to whole indices, as the authors' code does.
    """

    factor: float
    original: int
    beta_fast: float
    beta_slow: float
    attention_factor: float
    truncate: bool
    kind: ClassVar[str] = "yarn"

    def frequencies(self, theta: float, dim: int, positions: np.ndarray) -> np.ndarray:
        """float64 [dim/2], the same for all positions."""
        low, high = (self._index_of(turns, theta, dim) for turns in (self.beta_fast, self.beta_slow))
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        if low == high:
            high += 0.001
        stretched = np.clip((np.arange(dim // 2) - low) / (high - low), 0.0, 1.0)
        return plain_frequencies(theta, dim) * (1.0 - stretched + stretched / self.factor)

    def _index_of(self, turns: float, theta: float, dim: int) -> float:
        """The (fractional) index of the pair that turns that many times within `original` positions."""
        return dim * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(theta))


@dataclass(frozen=True)
class Long:
    """LongRoPE (arXiv:2402.13753): each pair's frequency is divided by a factor of its own, from the list `short` up to
    `original` positions, from `long` beyond; rotated vectors are longer by `attention_factor`.

    Defined per position, as `Dynamic` is: that is what transformers computes step by step.
    """

    short: tuple[float, ...]
    long: tuple[float, ...]
    original: int
    attention_factor: float
    factor: float
    kind: ClassVar[str] = "longrope"

    def frequencies(self, theta: float, dim: int, positions: np.ndarray) -> np.ndarray:
        """float64 [T, dim/2], one row for each position."""
        plain = plain_frequencies(theta, dim)
        near = positions[:, None] < self.original
        return np.where(near, plain / np.array(self.short), plain / np.array(self.long))


Scaling = Linear | Dynamic | Llama3 | Yarn | Long


@dataclass(frozen=True)
class RopeSpec:
    """How a model encodes positions: the base `theta`, how many numbers of a head are turned, and a scaling, if any.

    `paired`: the pairs of a head are (2 i, 2 i + 1).
    """

    theta: float
    dim: int
    scaling: Scaling | None = None
    paired: bool = False

    def tables(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """cos and sin, each float32 [stop - start, dim/2], for the positions start..stop-1.

        YaRN's attention factor is multiplied in. Rows do not depend on which range is asked for.
        """
        positions = np.arange(start, stop, dtype=np.float64)
        if self.scaling is None:
            length, frequency = 1.0, plain_frequencies(self.theta, self.dim)
        else:
            length = self.scaling.attention_factor
            frequency = self.scaling.frequencies(self.theta, self.dim, positions)
        angle = positions[:, None] * frequency
        return (length * np.cos(angle)).astype(np.float32), (length * np.sin(angle)).astype(np.float32)


def read_rope(
    fields: Fields,
    head_dim: int,
    max_positions: int,
    *,
    part: float | None = None,
    theta: float = 10000.0,
    kind: str = "",
) -> tuple[RopeSpec, int]:
    """The rotary embedding that a config asks for, and the context it is good for.

    `part` and `theta`: the family's defaults for the share of a head that is turned (None: always all of it), and for
    the base.  `kind`: the layer type, where the config has an object for each.

    Reads transformers 4's `rope_theta` and `rope_scaling`, and transformers 5's `rope_parameters`.
    `max_positions` is max_position_embeddings. Dynamic and YaRN models usually keep the trained length there, so
    their context is the stretched one, `factor` times the original, where that is longer.
    """
    options = fields.child("rope_scaling")
    if options.is_empty():
        options = fields.child("rope_parameters")
        if kind and not options.is_empty() and not (options.has("full_attention") or options.has("sliding_attention")):
            raise fields.unsupported("rope_parameters", "an object for each of full_attention, sliding_attention")
        if kind:
            options = options.child(kind)
    theta_fields = options if options.has("rope_theta") else fields
    theta = theta_fields.number("rope_theta", low=2.0, high=1e18, default=theta)
    part_fields = options if options.has("partial_rotary_factor") else fields
    share = part_fields.number("partial_rotary_factor", low=0.0, high=1.0, default=part or 1.0)
    if part is None and share != 1.0:
        raise part_fields.unsupported("partial_rotary_factor", "1.0")
    dim = int(head_dim * share)
    if dim % 2 or not dim:
        raise part_fields.error("partial_rotary_factor", f"a share of head_dim, {head_dim}, that is even and not 0")
    name = "rope_type" if options.has("rope_type") else "type"
    if kind and options.has("type") and name == "type":  # transformers leaves such a scaling out
        raise options.unsupported("type", "rope_type")
    kind = options.text(name, default="default")
    if kind == "default":
        return RopeSpec(theta, dim), max_positions
    if kind not in READERS:
        raise options.unsupported(name, f"default, {', '.join(READERS)}")
    scaling = READERS[kind](fields, options, dim, max_positions)
    context = max_positions
    if isinstance(scaling, Dynamic | Yarn | Long):
        context = max(max_positions, min(int(scaling.factor * scaling.original), MAX_POSITIONS))
    return RopeSpec(theta, dim, scaling), context


def _read_linear(fields: Fields, options: Fields, dim: int, max_positions: int) -> Linear:
    return Linear(_factor(options))


def _read_dynamic(fields: Fields, options: Fields, dim: int, max_positions: int) -> Dynamic:
    if dim <= 2:
        raise fields.unsupported("head_dim", "dynamic rope scaling with a head_dim above 2")
    return Dynamic(_factor(options), max_positions)


def _read_llama3(fields: Fields, options: Fields, dim: int, max_positions: int) -> Llama3:
    low = options.number("low_freq_factor", low=1e-6, high=1e6)
    high = options.number("high_freq_factor", low=1e-6, high=1e6)
    if high <= low:
        raise options.error("high_freq_factor", f"a number above low_freq_factor, {low:g}")
    return Llama3(_factor(options), low, high, _original(fields, options, max_positions))


def _read_yarn(fields: Fields, options: Fields, dim: int, max_positions: int) -> Yarn:
    original = _original(fields, options, max_positions)
    factor = _factor(options, default=max(max_positions / original, 1.0))
    fast = options.number("beta_fast", low=1e-6, high=1e6, default=32.0)
    slow = options.number("beta_slow", low=1e-6, high=1e6, default=1.0)
    if fast < slow:
        raise options.error("beta_fast", f"a number not below beta_slow, {slow:g}")
    scales = [options.number(name, low=0.0, high=1e3, default=0.0) for name in ("mscale", "mscale_all_dim")]
    attention = _temperature(factor, 1.0)
    if all(scales):
        attention = _temperature(factor, scales[0]) / _temperature(factor, scales[1])
    attention = options.number("attention_factor", low=1e-3, high=1e3, default=attention)
    return Yarn(factor, original, fast, slow, attention, options.flag("truncate", default=True))


def _read_long(fields: Fields, options: Fields, dim: int, max_positions: int) -> Long:
    original = _original(fields, options, max_positions)
    factor = _factor(options, default=max(max_positions / original, 1.0))
    short, long = (options.numbers(f"{name}_factor", dim // 2, low=1e-6, high=1e6) for name in ("short", "long"))
    length = math.sqrt(1 + math.log(factor) / math.log(original)) if original > 1 else 1.0
    length = options.number("attention_factor", low=1e-3, high=1e3, default=length)
    return Long(short, long, original, length, factor)


READERS: dict[str, Callable[[Fields, Fields, int, int], Scaling]] = {
    "linear": _read_linear,
    "dynamic": _read_dynamic,
    "llama3": _read_llama3,
    "yarn": _read_yarn,
    "longrope": _read_long,
    "su": _read_long,  # its name before the paper
}


def _temperature(factor: float, mscale: float) -> float:
    """YaRN's recommended 0.1 ln(s) + 1 (its equation 22), weighted by `mscale`; 1 where nothing is stretched."""
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1.0 else 1.0


def _factor(options: Fields, default: float | None = None) -> float:
    return options.number("factor", low=1.0, high=1e6, default=default)


def _original(fields: Fields, options: Fields, max_positions: int) -> int:
    """The trained context; a value outside the rope object wins over one inside, as in transformers."""
    name = "original_max_position_embeddings"
    return (fields if fields.has(name) else options).integer(name, 1, MAX_POSITIONS, default=max_positions)
