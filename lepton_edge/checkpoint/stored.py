"""How a checkpoint stores a tensor, where it is not as we name its shape: matrices [..., outputs, inputs]."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["BLOCKS", "SCALES", "Stored", "in_turns"]

BLOCKS, SCALES = "_blocks", "_scales"  # endings of the names of MXFP4's two tensors


@dataclass(frozen=True)
class Stored:
    """transposed: as [..., inputs, outputs].  turns: the axis, from the end, along which the two halves of the outputs
    take turns, 0 for none.  mxfp4: as NAME_blocks, uint8 [..., outputs, groups, 16], and NAME_scales without the 16.
    """

    transposed: bool = False
    turns: int = 0
    mxfp4: bool = False

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """The shape by which we know a tensor of that shape."""
        return (*stored[:-2], *stored[-2:][::-1]) if self.transposed else stored

    def arrange(self, data: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """The bytes of a tensor stored in that shape, in our order; a new array."""
        values = data.reshape(*shape, data.size // max(1, math.prod(shape)))
        if self.transposed:
            values = values.swapaxes(-3, -2)
        if self.turns:
            values = in_turns(values, self.turns - 1)
        return np.ascontiguousarray(values).reshape(-1)


def in_turns(values: NDArray[np.uint8], axis: int) -> NDArray[np.uint8]:
    """The even places of an axis, then the odd ones.

    >>> in_turns(np.arange(6, dtype=np.uint8), -1).tolist()
    [0, 2, 4, 1, 3, 5]
    """
    halves = np.moveaxis(values, axis, 0)
    return np.moveaxis(np.concatenate([halves[0::2], halves[1::2]]), 0, axis)
