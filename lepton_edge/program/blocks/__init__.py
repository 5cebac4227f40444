"""What layers are made of: one file for each kind of mixer and of feed-forward, as functions over the builder.

A block reads the activation `h`, the layer's normed input, in three steps, so that the builder may order those of a
layer's two blocks as its family does.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from ...models.recurrent import ChannelMix4, ChannelMix7, Mamba, Mamba2, Rnn, ShortConv, TimeMix4, TimeMix7
from ...models.spec import Attention, Experts, FeedForward
from . import attention, experts, feed_forward, mamba, rnn, rwkv, short_conv

if TYPE_CHECKING:
    from ..build import Builder

__all__ = ["BLOCKS", "Block"]


class Block(NamedTuple):
    """How a kind of block is lowered, for its part of the spec, in layer `i`.

    inputs(builder, part, i): take the weights that are multiplied with `h` into the program; -> their names.
    inside(builder, part, i): the rows from `h` up to what the output projection reads.
    output(builder, part, i, y, accumulate): the output projection: y = …, or y += ….
    own: whether only products read `h`.
    """

    inputs: Callable[["Builder", Any, int], list[str]]
    inside: Callable[["Builder", Any, int], None]
    output: Callable[["Builder", Any, int, str, bool], None]
    own: bool = True


BLOCKS: dict[type, Block] = {
    Attention: Block(attention.inputs, attention.inside, attention.output),
    Experts: Block(experts.inputs, experts.inside, experts.output),
    FeedForward: Block(feed_forward.inputs, feed_forward.inside, feed_forward.output),
    ShortConv: Block(short_conv.inputs, short_conv.inside, short_conv.output),
    Mamba: Block(mamba.inputs, mamba.inside, mamba.output),
    Mamba2: Block(mamba.inputs, mamba.inside2, mamba.output),
    Rnn: Block(rnn.inputs, rnn.inside, rnn.output),
    TimeMix4: Block(rwkv.inputs, rwkv.inside4, rwkv.output, own=False),
    ChannelMix4: Block(rwkv.inputs, rwkv.channels4, rwkv.output_channels4, own=False),
    TimeMix7: Block(rwkv.inputs, rwkv.inside7, rwkv.output, own=False),
    ChannelMix7: Block(rwkv.inputs, rwkv.channels7, rwkv.output_channels7, own=False),
}
