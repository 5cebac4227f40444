"""What a GPU can do at most, measured: the limits that steps are held against."""

import statistics

from ...kernels.cuda.layout import PROBE_OPERATIONS
from .device import open_device
from .memory import Block

__all__ = ["bandwidth", "tensor_speed"]

COPIED = 1 << 30  # bytes of a copy, many times any cache
ROUNDS = 5
PROBE_ROUNDS, PROBE_WARPS = 4096, 32


def bandwidth() -> float:
    """Bytes that the device reads and writes in a second when it copies: the median of a few rounds."""
    device = open_device()
    source, target = Block(device, COPIED), Block(device, COPIED)
    samples = []
    for _ in range(ROUNDS + 1):
        stop = device.timer()
        device.copy(target.at, source.at, COPIED)
        samples.append(2 * COPIED / stop())
    source.free()
    target.free()
    return statistics.median(samples[1:])


def tensor_speed() -> float:
    """Int8 operations that the tensor cores do in a second, by `mma.sync`."""
    device = open_device()
    device.load(["probe_mma"])
    memory, blocks = Block(device, 256), 2 * device.processors
    samples = []
    for _ in range(ROUNDS + 1):
        stop = device.timer()
        device.launch([("probe_mma", memory.at, 0, PROBE_ROUNDS, (blocks, 1, 1, 32 * PROBE_WARPS))])
        samples.append(blocks * PROBE_WARPS * PROBE_ROUNDS * PROBE_OPERATIONS / stop())
    memory.free()
    return statistics.median(samples[1:])
