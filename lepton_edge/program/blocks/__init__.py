"""What layers are made of: one file for each kind of mixer and of feed-forward, as functions over the builder.

A block reads the activation `h`, the layer's normed input, in three steps, so that the builder may order those of a
layer's two blocks as its family does.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from ...models.spec import Attention, Experts, FeedForward
from . import attention, experts, feed_forward

if TYPE_CHECKING:
    from ..build import Builder

__all__ = ["BLOCKS", "Block"]


class Block(NamedTuple):
    """How a kind of block is lowered, for its part of the spec, in layer `i`.

    inputs(builder, part, i): take the weights that are multiplied with `h` into the program; -> their names.
    inside(builder, part, i): the rows from `h` up to what the output projection reads.
    output(builder, part, i, y, accumulate): the output projection: y = …, or y += ….
    """

    inputs: Callable[["Builder", Any, int], list[str]]
    inside: Callable[["Builder", Any, int], None]
    output: Callable[["Builder", Any, int, str, bool], None]


BLOCKS: dict[type, Block] = {
    Attention: Block(attention.inputs, attention.inside, attention.output),
    Experts: Block(experts.inputs, experts.inside, experts.output),
    FeedForward: Block(feed_forward.inputs, feed_forward.inside, feed_forward.output),
}
