"""Slopes of ALiBi (arXiv:2108.12409): how much a head's scores fall with the distance."""

import math

__all__ = ["bloom_slopes", "mpt_slopes"]


def bloom_slopes(heads: int) -> tuple[float, ...]:
    """2^(-8 i / n) for the n = the largest power of two heads; the others get every second slope of 2 n heads."""
    power = 2 ** int(math.log2(heads))
    slopes = [2.0 ** (-8 * i / power) for i in range(1, power + 1)]
    return tuple(slopes + [2.0 ** (-4 * i / power) for i in range(1, 2 * (heads - power), 2)])


def mpt_slopes(heads: int, largest: float) -> tuple[float, ...]:
    """2^(-largest i / n) for n = the next power of two; of more than there are heads, the even ones come first."""
    power = 2 ** math.ceil(math.log2(heads))
    slopes = [2.0 ** (-largest * i / power) for i in range(1, power + 1)]
    return tuple(slopes if power == heads else (slopes[1::2] + slopes[::2])[:heads])
