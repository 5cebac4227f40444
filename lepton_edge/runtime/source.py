"""Where an engine's weights come from, and in which format they run."""

from collections.abc import Callable, Collection
from typing import Protocol

from ..checkpoint.store import Weight
from ..quant.formats import MXFP4, get_format
from ..quant.pack import pack_weight

__all__ = ["Source", "converted"]


class Source(Protocol):
    """Where weights come from: a `Checkpoint`, or random ones."""

    def weight(self, name: str) -> Weight: ...
    def require(self, expected: dict[str, tuple[int, ...]], /) -> None: ...
    def check_unchanged(self) -> None: ...


def converted(source: Source, matrices: Collection[str], format: str | None) -> Callable[[str], Weight]:
    """A function that gives weights by their names, those of `matrices` in a format, converted once in memory.

    None: as they lie.
    """
    held: dict[str, Weight] = {}

    def weight(name: str) -> Weight:
        if name in held:
            return held[name]
        found = source.weight(name)
        if format is None or found.format == format or name not in matrices or _stays(found.format, format):
            return found
        held[name] = pack_weight(found, format, name)
        return held[name]

    return weight


def _stays(stored: str, format: str) -> bool:
    """Whether a matrix is best left as it is stored: to repack four bits loses, and gains nothing."""
    return stored == MXFP4.name and get_format(format).packed
