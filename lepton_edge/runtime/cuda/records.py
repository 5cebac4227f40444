"""Activations in int8 as the CPU has them, and as the GPU has them: for the ops that only the CPU knows.

CPU: tiles of some tokens; in each for every group the codes of its tokens, their scales, and -8 times the sums of their
codes.  GPU: all codes [room, 32 groups], then scales [groups, room] (`kernels/cuda/layout.py`).
"""

import numpy as np
from numpy.typing import NDArray

from ...kernels.layout import GROUP, RECORD

__all__ = ["from_device", "to_device"]

Bytes = NDArray[np.uint8]


def _tiles(tokens: int, widths: tuple[int, ...]) -> list[tuple[int, int]]:
    """(first token, width) of the tiles of a batch: as many of the widest as fit, then the next narrower."""
    found, first = [], 0
    for width in widths:
        while first + width <= tokens:
            found.append((first, width))
            first += width
    return found


def to_device(records: Bytes, device: Bytes, tokens: int, groups: int, room: int, widths: tuple[int, ...]) -> None:
    """The CPU's records of some tokens into memory as the GPU has it."""
    codes, scales = _views(device, groups, room)
    for first, width in _tiles(tokens, widths):
        tile = _tile(records, first, width, groups)
        codes[first : first + width] = tile[:, : width * GROUP].reshape(groups, width, GROUP).swapaxes(0, 1)
        scales[:, first : first + width] = tile[:, width * GROUP : width * (GROUP + 4)].copy().view(np.float32)


def from_device(device: Bytes, records: Bytes, tokens: int, groups: int, room: int, widths: tuple[int, ...]) -> None:
    """The other way round."""
    codes, scales = _views(device, groups, room)
    for first, width in _tiles(tokens, widths):
        tile = _tile(records, first, width, groups)
        here = codes[first : first + width].swapaxes(0, 1)
        sums = np.ascontiguousarray(-8 * here.view(np.int8).sum(axis=2, dtype=np.int32))
        tile[:, : width * GROUP] = here.reshape(groups, -1)
        scale = np.ascontiguousarray(scales[:, first : first + width])
        tile[:, width * GROUP : width * (GROUP + 4)] = scale.view(np.uint8)
        tile[:, width * (GROUP + 4) :] = sums.view(np.uint8)


def _views(device: Bytes, groups: int, room: int) -> tuple[Bytes, NDArray[np.float32]]:
    """Codes [room, groups, 32] and scales [groups, room] of device memory."""
    split = room * groups * GROUP
    codes = device[:split].reshape(room, groups, GROUP)
    return codes, device[split : split + 4 * room * groups].view(np.float32).reshape(groups, room)


def _tile(records: Bytes, first: int, width: int, groups: int) -> Bytes:
    """The part of the CPU's records that a tile takes, [groups, bytes]."""
    start = first * groups * RECORD
    return records[start : start + width * groups * RECORD].reshape(groups, width * RECORD)
