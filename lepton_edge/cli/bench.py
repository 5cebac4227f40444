"""Measure prompt and generation speed.

The tests are llama-bench's: ppN feeds one prompt of N random tokens, tgN makes N single steps; neither samples.
With -d the cache already holds that many tokens ("@ dN"); with -b a step has a token of each of B sequences ("xB"),
whose speeds are added up.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, TypeVar

from lepton_edge.cli import bench_profile
from lepton_edge.cli.options import add_engine_options, count
from lepton_edge.cli.output import notify, size
from lepton_edge.cli.shapes import SHAPES
from lepton_edge.errors import RequestError

if TYPE_CHECKING:
    import numpy as np

    from lepton_edge.runtime import Engine

SEED = 1
MAX_BATCH = 64  # sequences that the engine takes in one step


@dataclass(frozen=True)
class Result:
    """One row; -o json prints these fields. `bandwidth_share` is of tg only.

    weight_bytes: what a step of one token reads. bandwidth_share: weight_bytes * tok_s_mean / bandwidth.
    """

    model: str
    format: str
    threads: int
    isa: str
    test: str
    n: int
    tok_s_mean: float
    tok_s_stdev: float
    samples: list[float]
    bandwidth_gb_s: float
    bandwidth_share: float | None
    weight_bytes: int
    cpu: str
    version: str


@dataclass(frozen=True)
class Test:
    """A test of `n` tokens of each of `batch` sequences, `chunk` of each a step."""

    name: str
    prompt: bool
    n: int
    chunk: int
    batch: int


Row = TypeVar("Row", Result, bench_profile.Line)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """llama-bench's flags."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("-m", "--model", metavar="MODEL", help="a model folder, or an embedded model (default: stories)")
    which.add_argument("--shape", choices=SHAPES, help="random weights of this shape, made in memory")
    add_engine_options(parser)
    parser.add_argument("-p", "--n-prompt", type=count, default=256, metavar="N", help="prompt tokens; 0: no test")
    parser.add_argument("-n", "--n-gen", type=count, default=64, metavar="N", help="steps; 0: no test")
    parser.add_argument("-b", "--batch", type=count, default=1, metavar="B", help="sequences in each of these steps")
    parser.add_argument("-d", "--n-depth", type=count, default=0, metavar="N", help="tokens in the cache before")
    parser.add_argument("-r", "--repetitions", type=count, default=5, metavar="N", help="samples of each test")
    parser.add_argument("--profile", action="store_true", help="where the time of a step goes, largest loss first")
    parser.add_argument("-o", "--output", choices=("md", "json", "csv"), default="md")


def run(arguments: argparse.Namespace) -> int:
    """Measures each test and prints the rows."""
    if arguments.repetitions == 0 or arguments.n_prompt + arguments.n_gen == 0:
        raise RequestError("-r, -p, -n: nothing to measure; expected -r of 1 or more, and -p or -n above 0")
    if not 1 <= arguments.batch <= MAX_BATCH:
        raise RequestError(f"-b {arguments.batch}: expected 1 to {MAX_BATCH} sequences")
    if arguments.profile:
        _print(_profile(arguments), arguments.output, bench_profile.render)
    else:
        _print(_measure(arguments), arguments.output, _markdown)
    return 0


def _print(results: list[Row], output: str, text: Callable[[list[Row]], str]) -> None:
    writers: dict[str, Callable[[list[Row]], str]] = {"md": text, "json": _json, "csv": _csv}
    print(writers[output](results))


def _measure(arguments: argparse.Namespace) -> list[Result]:
    import statistics

    from lepton_edge.version import __version__

    name = arguments.shape or arguments.model or "stories"
    engine = _engine(arguments)
    try:
        machine, bandwidth = _machine(engine)
        weight_bytes = engine.program.step_bytes
        results = []
        for test in _tests(arguments, engine):
            runs = list(_runs(engine, test, arguments.n_depth, arguments.repetitions))
            samples = [test.batch * test.n / seconds for seconds in runs[1:]]
            mean = statistics.fmean(samples)
            results.append(
                Result(
                    model=name,
                    format=engine.format,
                    threads=engine.threads,
                    isa=engine.isa,
                    test=test.name,
                    n=test.n,
                    tok_s_mean=round(mean, 2),
                    tok_s_stdev=round(statistics.stdev(samples), 2) if len(samples) > 1 else 0.0,
                    samples=[round(sample, 2) for sample in samples],
                    bandwidth_gb_s=round(bandwidth / 1e9, 2),
                    bandwidth_share=None if test.prompt else round(mean / test.batch * weight_bytes / bandwidth, 4),
                    weight_bytes=weight_bytes,
                    cpu=machine,
                    version=__version__,
                )
            )
        return results
    finally:
        engine.close()


def _machine(engine: "Engine") -> tuple[str, float]:
    """What computes, and the bytes that it reads in a second at most."""
    if engine.device != "cpu":
        from lepton_edge.runtime.cuda.limits import bandwidth

        return engine.device, bandwidth()
    from lepton_edge.cli.cpu import cpu_name
    from lepton_edge.cli.limits import limits

    return cpu_name(), limits(engine.isa, engine.threads, notify).read


def _profile(arguments: argparse.Namespace) -> list[bench_profile.Line]:
    from lepton_edge.cli.limits import limits

    name = arguments.shape or arguments.model or "stories"
    engine = _engine(arguments)
    try:
        machine = limits(engine.isa, engine.threads, notify)
        found = []
        for test in _tests(arguments, engine):
            runs = _runs(engine, test, arguments.n_depth, arguments.repetitions)
            next(runs)
            with engine.profile() as profile:
                seconds = sum(runs) / (arguments.repetitions * -(-test.n // test.chunk))
            found += bench_profile.lines(profile, seconds, machine, model=name, format=engine.format,
                                         threads=engine.threads, isa=engine.isa, test=test.name)  # fmt: skip
        return found
    finally:
        engine.close()


def _tests(arguments: argparse.Namespace, engine: "Engine") -> Iterator[Test]:
    """The tests that are asked for."""
    depth = f" @ d{arguments.n_depth}" if arguments.n_depth else ""
    if n := arguments.n_prompt:
        yield Test(f"pp{n}{depth}", True, n, engine.max_batch, 1)
    if n := arguments.n_gen:
        batch = f" x{arguments.batch}" if arguments.batch > 1 else ""
        yield Test(f"tg{n}{batch}{depth}", False, n, 1, arguments.batch)


def _engine(arguments: argparse.Namespace) -> "Engine":
    """The engine on test, with room for the longest one."""
    from lepton_edge.checkpoint import Checkpoint
    from lepton_edge.embedded import model_folder
    from lepton_edge.models.registry import spec_from_config, spec_of
    from lepton_edge.quant.random import RandomCheckpoint
    from lepton_edge.runtime import engine_for

    checkpoint: Checkpoint | RandomCheckpoint
    if arguments.shape:
        spec = spec_from_config(SHAPES[arguments.shape], f"--shape {arguments.shape}")
        checkpoint = RandomCheckpoint(spec.tensors(), arguments.format or "q4", SEED, spec.matrices())
    else:
        checkpoint = Checkpoint.open(model_folder(arguments.model))
        spec = spec_of(checkpoint)
    return engine_for(arguments.device).load(
        checkpoint,
        spec,
        format=arguments.format,
        threads=arguments.threads,
        isa=arguments.isa,
        kv_dtype=arguments.kv_dtype,
        notify=notify,
        context=arguments.n_depth + max(arguments.n_prompt, arguments.n_gen),
    )


def _runs(engine: "Engine", test: Test, depth: int, repeat: int) -> Iterator[float]:
    """Seconds of a run over n random tokens of each of `batch` sequences that warms up, and then of `repeat` more."""
    import numpy as np

    batch = test.batch
    tokens = np.random.default_rng(SEED).integers(0, engine.vocab, (batch, depth + test.n), dtype=np.int32)
    slots = [engine.open() for _ in range(batch)]
    try:
        for run in range(repeat + 1):
            fresh = run == 0 or not engine.can_truncate  # a state cannot go back: the depth is fed again
            for slot in slots:
                engine.truncate(slot, 0 if fresh else depth)
            if fresh:
                _feed(engine, slots, tokens[:, :depth], 0, engine.max_batch // batch)
            started = time.perf_counter()
            _feed(engine, slots, tokens[:, depth:], depth, test.chunk)
            yield time.perf_counter() - started
    finally:
        for slot in slots:
            engine.close_slot(slot)


def _feed(engine: "Engine", slots: list[int], tokens: "np.ndarray", start: int, chunk: int) -> None:
    """Runs tokens int32 [B, T] of B sequences at positions start…, `chunk` of each a step; logits of the last only."""
    import numpy as np

    for at in range(0, tokens.shape[1], chunk):
        part = tokens[:, at : at + chunk]
        batch, length = part.shape
        positions = np.tile(np.arange(start + at, start + at + length, dtype=np.int32), batch)
        last = np.arange(1, batch + 1, dtype=np.int32) * length - 1
        step = engine.step if length == 1 else engine.forward  # a step does not copy the logits
        step(part.ravel(), np.repeat(np.array(slots, np.int32), length), positions, last)


def _markdown(results: list[Result]) -> str:
    first = results[0]
    lines = [
        f"{first.cpu}; {first.isa}, {first.threads} threads; memory reads at {first.bandwidth_gb_s:.1f} GB/s",
        "",
        "| model | format | size | test | tok/s | of bandwidth |",
        "| --- | --- | ---: | --- | ---: | ---: |",
    ]
    for result in results:
        share = "" if result.bandwidth_share is None else f"{100 * result.bandwidth_share:.0f}%"
        speed = f"{result.tok_s_mean:.2f} ± {result.tok_s_stdev:.2f}"
        lines.append(
            f"| {result.model} | {result.format} | {size(result.weight_bytes)} | {result.test} | {speed} | {share} |"
        )
    return "\n".join(lines)


def _json(results: list[Row]) -> str:
    import json

    return json.dumps([asdict(result) for result in results], indent=1, ensure_ascii=False)


def _csv(results: list[Row]) -> str:
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [field.name for field in fields(results[0]) if field.name != "samples"]
    writer.writerow(names)
    for result in results:
        row = asdict(result)
        writer.writerow(["" if row[name] is None else row[name] for name in names])
    return text.getvalue().rstrip("\n")
