"""One instruction set's code with another's instructions: how its tiles are tested on machines that lack it."""

from .portable import Portable

__all__ = ["emulated"]

# The words that instruction sets spell with instructions of their own; all others are built from these, or portable.
MACHINE_WORDS = ("fma", "widen_f16", "narrow_f16", "dot4", "round_pairs", "dot_bf16", "pause")


def emulated(kind: type[Portable], host: type[Portable]) -> type[Portable]:
    """`kind` in all that a kernel sees (tiles, lanes, the order of its sums), compiled for `host`."""
    words = {word: getattr(host, word) for word in MACHINE_WORDS}
    machine = dict(name=f"{kind.name}@{host.name}", cpu=host.cpu, features=host.features)
    return type(kind.__name__, (kind,), {**words, **machine})
