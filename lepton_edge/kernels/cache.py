"""Where the keys and values of a position lie: pages of layers, of heads, of K and V (see `layout.py`)."""

from collections.abc import Callable
from typing import NamedTuple

from .common import at
from .layout import GROUP, PAGE, PAGES, PAGES_STRIDE
from .simd.words import get_i64, jit

SIZES = {"f32": 4, "f16": 2, "q8": 1}  # bytes of a number


class Cache(NamedTuple):
    """One number format of the cache: jitted functions of the head's size, all in bytes."""

    name: str
    size: int
    row: Callable  # from the V of a position to that of the next
    keys: Callable  # K of a head in a page, and so the offset of its V
    head: Callable  # K and V of a head in a page


@jit
def page_of(context, slot, position, layer):
    """Address of one layer's part of the page that holds a position of a sequence."""
    table = at(context, PAGES) + slot * at(context, PAGES_STRIDE)
    return get_i64(table + position // PAGE * 8) + layer


@jit
def groups_of(d):
    """Groups of columns of a head that share a scale."""
    return (d + GROUP - 1) // GROUP


def cache(name: str) -> Cache:
    """The cache in f32, f16 or q8."""
    size = SIZES[name]
    if name == "q8":

        @jit
        def row(d):
            return groups_of(d) * GROUP

        @jit
        def keys(d):
            return PAGE * groups_of(d) * (GROUP + 2)

        @jit
        def head(d):
            return 2 * keys(d)
    else:

        @jit
        def row(d):
            return (d + 15) // 16 * 16 * size

        @jit
        def keys(d):
            return PAGE * d * size

        @jit
        def head(d):
            return keys(d) + PAGE * row(d)

    return Cache(name, size, row, keys, head)
