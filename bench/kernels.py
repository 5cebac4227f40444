"""Every kernel at real layer shapes: GB/s, GOPS, and how much of this machine's limits they reach.

    python -m bench.kernels [--quick] [SHAPE …]

Each weight format, and each cache, has an engine with so many of a shape's layers that no cache holds their weights.
Its operations are timed row by row (`Engine.profile`), so they find memory as a whole step leaves it. Every round
takes all engines and the limits in turns; figures are medians over rounds, and the limits the best samples.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from bench.e2e import facts
from bench.idle import LIMIT, Watch
from bench.results import FOLDER, append
from lepton_edge.cli.bench_profile import least_seconds
from lepton_edge.cli.limits import Limits, Probes, best
from lepton_edge.cli.output import notify, table
from lepton_edge.cli.shapes import SHAPES
from lepton_edge.kernels.machine import choose
from lepton_edge.kernels.ops import CACHES, PACKED, PLAIN
from lepton_edge.models.registry import spec_from_config
from lepton_edge.models.spec import ModelSpec
from lepton_edge.quant.formats import get_format
from lepton_edge.quant.random import RandomCheckpoint
from lepton_edge.runtime import Engine
from lepton_edge.runtime.profile import OpTime

RESIDENT = 128e6  # bytes of weights in a step, at least, where the shape has as many layers
SEED = 1


@dataclass(frozen=True)
class Test:
    """Steps of `tokens` tokens of each of `sequences` sequences, whose caches hold `depth` tokens before."""

    name: str
    sequences: int
    tokens: int
    depth: int = 0


def tests(depth: int) -> tuple[Test, ...]:
    """The tests of the products, and last the one of single tokens over a cache of `depth`."""
    return Test("1 token", 1, 1), Test("8 tokens", 8, 1), Test("prefill 512", 1, 512), Test(f"@ {depth}", 1, 1, depth)


@dataclass(frozen=True)
class Measurement:
    """One row of a program in one test: a sample of its seconds from each round, and the limits of the same rounds.

    nbytes, operations: what the row must do at the least (`program.cost`). barrier: seconds of these that a thread
    waits for others. read, int8, f32: `Limits` of these threads.
    """

    run: str
    host: str
    cpu: str
    cores: int
    system: str
    commit: str
    isa: str
    threads: int
    shape: str
    format: str
    cache: str
    test: str
    op: str
    part: str
    nbytes: float
    operations: float
    samples: tuple[float, ...]
    barrier: float
    read: float
    int8: float
    f32: float
    read_one: float  # of a single thread
    others: float | None  # what other processes used meanwhile, in cores; None: not known

    @property
    def seconds(self) -> float:
        return statistics.median(self.samples)

    @property
    def reached(self) -> float | None:
        """The share of the machine's limit; None for what works in the caches and has none."""
        time = OpTime(self.op, self.part, 1, self.seconds, self.barrier, self.nbytes, self.operations)
        return least_seconds(time, Limits(self.read, self.int8, self.f32)) / (self.seconds or np.inf) or None

    def line(self) -> str:
        """The measurement as one line of JSON, with the figures that follow from it."""
        rates = {"gb_s": self.nbytes / self.seconds / 1e9, "gops": self.operations / self.seconds / 1e9}
        return json.dumps({**asdict(self), "seconds": self.seconds, **rates, "reached": self.reached})


class Subject:
    """An engine whose operations are measured, those that `keep` chooses, in some of the tests."""

    def __init__(self, spec: ModelSpec, format: str, cache: str, threads: int, isa: str,
                 tests: Iterable[Test], keep: Callable[[OpTime], bool]) -> None:  # fmt: skip
        self.format, self.cache, self.tests, self.keep = format, cache, tuple(tests), keep
        few = with_layers(spec, format)
        self.engine = Engine.load(RandomCheckpoint(few.tensors(), format, SEED), few, threads=threads, isa=isa,
                                  kv_dtype=cache, context=spec.context, notify=notify)  # fmt: skip
        self._tokens = np.random.default_rng(SEED).integers(0, spec.vocab, 1 << 14, np.int32)
        self._slots = [self.engine.open() for _ in range(max(test.sequences for test in self.tests))]
        self._depth = 0

    def measure(self, test: Test, steps: int) -> list[OpTime]:
        """Times of the operations in some steps of a test, for one row each."""
        slots = self._slots[: test.sequences]
        self._fill(test.depth)
        for slot in slots[1:]:
            self.engine.truncate(slot, 0)
        with self.engine.profile() as profile:
            for _ in range(steps):
                if test.tokens > 1:
                    self.engine.truncate(slots[0], test.depth)
                self._step(slots, test.tokens)
        return [per_row(op) for op in profile.ops() if op.nbytes and self.keep(op)]

    def _fill(self, depth: int) -> None:
        """Make the first sequence `depth` tokens long."""
        slot = self._slots[0]
        self.engine.truncate(slot, min(depth, self.engine.length(slot)))
        while (missing := depth - self.engine.length(slot)) > 0:
            self._step([slot], min(missing, self.engine.max_batch))

    def _step(self, slots: list[int], tokens: int) -> None:
        """The next tokens of each sequence; logits of single ones, as generating needs them, and none of a prompt's."""
        first = [self.engine.length(slot) for slot in slots]
        positions = np.concatenate([np.arange(start, start + tokens) for start in first])
        wanted = np.arange(len(slots) if tokens == 1 else 0)
        self.engine.forward(self._tokens[positions], np.repeat(slots, tokens), positions, wanted)


def per_row(op: OpTime) -> OpTime:
    """The time of one of an operation's rows."""
    rest = {name: getattr(op, name) / op.rows for name in ("seconds", "wait", "nbytes", "operations")}
    return replace(op, rows=1, **rest)


def with_layers(spec: ModelSpec, format: str) -> ModelSpec:
    """The same model with as few of its layers as have RESIDENT bytes of weights together."""
    shapes = [shape for shape in spec.tensors().values() if len(shape) == 2 and spec.vocab not in shape]
    layer = sum(get_format(format).nbytes(*shape) for shape in shapes) / len(spec.layers)
    return replace(spec, layers=spec.layers[: -int(-RESIDENT // layer)])


def is_attention(op: OpTime) -> bool:
    """Whether an operation's speed depends on the cache's format, and not on the weights'."""
    return op.op.startswith(("attention", "rope"))


def subjects(spec: ModelSpec, threads: int, isa: str, depth: int) -> Iterator[Subject]:
    """An engine for each weight format, and one for each cache.

    Small operations are kept of the first plain and the first packed format only: the others run the same code.
    """
    *products, deep = tests(depth)
    for format in (*PLAIN, *PACKED):
        whole = format in (PLAIN[0], PACKED[0])

        def keep(op: OpTime, whole: bool = whole) -> bool:
            return not is_attention(op) and (whole or op.op.startswith(("matmul", "gated", "embed")))

        yield Subject(spec, format, CACHES[0], threads, isa, products, keep)
    for cache in CACHES:
        yield Subject(spec, PACKED[-1], cache, threads, isa, (products[-1], deep), is_attention)


Key = tuple[Subject, Test, str, str]


def take_turns(found: list[Subject], probes: Sequence[Probes], rounds: int, steps: int) -> tuple:
    """The times of every operation, one of each round after one that warms up; then the best limits of each probe.

    A prompt is one step; `steps` is how many the other tests take.
    """
    times: dict[Key, list[OpTime]] = {}
    samples: list[list[Limits]] = [[] for _ in probes]
    for number in range(rounds + 1):
        for subject in found if number % 2 else reversed(found):
            for probe, taken in zip(probes, samples, strict=True):
                taken.append(probe.sample())
            for test in subject.tests:
                for op in subject.measure(test, 1 if test.tokens > 1 else steps):
                    times.setdefault((subject, test, op.op, op.part), []).append(op)
        if number == 0:
            times.clear()
        notify(f"round {number} of {rounds}" if number else "warm")
    return times, *(best(taken) for taken in samples)


def measure(shape: str, spec: ModelSpec, run: dict, args: argparse.Namespace) -> list[Measurement]:
    """All measurements of one shape."""
    found = list(subjects(spec, args.threads, args.isa, args.depth))
    probes = Probes(args.isa, args.threads, notify), Probes(args.isa, 1, notify)
    watch = Watch()
    try:
        times, limits, one = take_turns(found, probes, args.rounds, args.steps)
    finally:
        for closing in (*probes, *(subject.engine for subject in found)):
            closing.close()
    others = watch.others()
    common = dict(**run, isa=args.isa, threads=args.threads, shape=shape, **asdict(limits), read_one=one.read,
                  others=None if others is None else round(others, 3))  # fmt: skip
    return [
        Measurement(
            **common,
            format=subject.format,
            cache=subject.cache,
            test=test.name,
            op=op,
            part=part,
            nbytes=statistics.median(time.nbytes for time in samples),
            operations=statistics.median(time.operations for time in samples),
            samples=tuple(time.seconds for time in samples),
            barrier=statistics.median(time.wait for time in samples),
        )
        for (subject, test, op, part), samples in times.items()
    ]


def render(found: list[Measurement]) -> str:
    """One shape's measurements as text of at most 80 columns, and the limits that they are held against."""
    first = found[0]
    order = {test.name: i for i, test in enumerate(tests(0))}
    rows = []
    for one in sorted(found, key=lambda one: order.get(one.test, len(order))):
        seconds = one.seconds or np.inf  # a row may be too short for the clock
        gops = f"{one.operations / seconds / 1e9:.1f}" if one.operations else ""
        rows.append(
            [f"{one.op} {one.part}", one.test, one.cache if one.op.startswith(("attention", "rope")) else one.format,
             f"{one.seconds * 1e6:.1f}", f"{one.nbytes / seconds / 1e9:.1f}", gops,
             f"{100 * one.barrier / seconds:.0f}%", "" if one.reached is None else f"{100 * one.reached:.0f}%"]
        )  # fmt: skip
    headers = [first.shape, "test", "format", "us", "GB/s", "GOPS", "wait", "limit"]
    read, one, int8, f32 = (limit / 1e9 for limit in (first.read, first.read_one, first.int8, first.f32))
    return (
        f"{table(headers, rows, '<<<')}\nlimits of {first.threads} threads, {first.isa}: "
        f"{read:.1f} GB/s (one: {one:.1f}), {int8:.0f} GOPS on int8, {f32:.0f} on f32"
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.kernels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shapes", nargs="*", metavar="SHAPE", help=f"of {', '.join(SHAPES)}; all when none is named")
    parser.add_argument("-t", "--threads", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--isa", help="instruction set (default: the best)")
    parser.add_argument("--depth", type=int, default=4096, help="tokens in the cache (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=8, help="of single tokens in a round (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one round of two steps, at depth 512")
    parser.add_argument("--out", type=Path, metavar="FILE", help="(default: bench/results/kernels/DATE-HOST.jsonl)")
    args = parser.parse_args()
    unknown = sorted(set(args.shapes) - set(SHAPES))
    if unknown:
        parser.error(f"unknown shape {', '.join(unknown)}; there are {', '.join(SHAPES)}")
    if args.quick:
        args.rounds, args.steps, args.depth = 1, 2, 512
    if min(args.threads, args.depth, args.rounds, args.steps) < 1:
        parser.error("-t, --depth, --rounds and --steps must be at least 1")
    args.isa = choose(args.isa)
    return args


def main() -> int:
    args = arguments()
    run = facts()
    path = args.out or FOLDER / "kernels" / f"{run['run'][:10]}-{run['host']}.jsonl"
    for shape in args.shapes or SHAPES:
        found = measure(shape, spec_from_config(SHAPES[shape], shape), run, args)
        append(path, found)
        print(render(found), end="\n\n")
        if (found[0].others or 0.0) > LIMIT:
            print(f"DISTURBED: other processes used {found[0].others:.2f} cores; measure again when idle")
    print(f"medians of {args.rounds} rounds\n{run['cpu']}\nwritten to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
