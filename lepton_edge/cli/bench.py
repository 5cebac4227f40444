"""Measure prompt and generation speed.

The tests are llama-bench's: ppN feeds one prompt of N random tokens, tgN makes N single steps; neither samples.
With -d the cache already holds that many tokens ("@ dN").
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


Row = TypeVar("Row", Result, bench_profile.Line)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """llama-bench's flags."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("-m", "--model", metavar="MODEL", help="a model folder, or an embedded model (default: stories)")
    which.add_argument("--shape", choices=SHAPES, help="random weights of this shape, made in memory")
    add_engine_options(parser)
    parser.add_argument("-p", "--n-prompt", type=count, default=256, metavar="N", help="prompt tokens; 0: no test")
    parser.add_argument("-n", "--n-gen", type=count, default=64, metavar="N", help="steps; 0: no test")
    parser.add_argument("-d", "--n-depth", type=count, default=0, metavar="N", help="tokens in the cache before")
    parser.add_argument("-r", "--repetitions", type=count, default=5, metavar="N", help="samples of each test")
    parser.add_argument("--profile", action="store_true", help="where the time of a step goes, largest loss first")
    parser.add_argument("-o", "--output", choices=("md", "json", "csv"), default="md")


def run(arguments: argparse.Namespace) -> int:
    """Measures each test and prints the rows."""
    if arguments.repetitions == 0 or arguments.n_prompt + arguments.n_gen == 0:
        raise RequestError("-r, -p, -n: nothing to measure; expected -r of 1 or more, and -p or -n above 0")
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

    from lepton_edge.cli.bandwidth import read_bandwidth
    from lepton_edge.cli.cpu import cpu_name
    from lepton_edge.version import __version__

    name = arguments.shape or arguments.model or "stories"
    engine = _engine(arguments)
    try:
        bandwidth = read_bandwidth(engine.threads)
        results = []
        for test, n, chunk in _tests(arguments, engine):
            samples = [n / seconds for seconds in _runs(engine, n, arguments.n_depth, chunk, arguments.repetitions)][1:]
            mean = statistics.fmean(samples)
            results.append(
                Result(
                    model=name,
                    format=engine.format,
                    threads=engine.threads,
                    isa=engine.isa,
                    test=test,
                    n=n,
                    tok_s_mean=round(mean, 2),
                    tok_s_stdev=round(statistics.stdev(samples), 2) if len(samples) > 1 else 0.0,
                    samples=[round(sample, 2) for sample in samples],
                    bandwidth_gb_s=round(bandwidth / 1e9, 2),
                    bandwidth_share=round(mean * engine.program.step_bytes / bandwidth, 4) if chunk == 1 else None,
                    weight_bytes=engine.program.step_bytes,
                    cpu=cpu_name(),
                    version=__version__,
                )
            )
        return results
    finally:
        engine.close()


def _profile(arguments: argparse.Namespace) -> list[bench_profile.Line]:
    from lepton_edge.cli.bandwidth import read_bandwidth

    name = arguments.shape or arguments.model or "stories"
    engine = _engine(arguments)
    try:
        bandwidth = read_bandwidth(engine.threads)
        found = []
        for test, n, chunk in _tests(arguments, engine):
            runs = _runs(engine, n, arguments.n_depth, chunk, arguments.repetitions)
            next(runs)
            with engine.profile() as profile:
                seconds = sum(runs) / (arguments.repetitions * -(-n // chunk))
            found += bench_profile.lines(profile, seconds, bandwidth, model=name, format=engine.format,
                                         threads=engine.threads, isa=engine.isa, test=test)  # fmt: skip
        return found
    finally:
        engine.close()


def _tests(arguments: argparse.Namespace, engine: "Engine") -> Iterator[tuple[str, int, int]]:
    """(name, tokens, tokens in a step) of each test that is asked for."""
    depth = f" @ d{arguments.n_depth}" if arguments.n_depth else ""
    for kind, n, chunk in (("pp", arguments.n_prompt, engine.max_batch), ("tg", arguments.n_gen, 1)):
        if n:
            yield f"{kind}{n}{depth}", n, chunk


def _engine(arguments: argparse.Namespace) -> "Engine":
    """The engine on test, with room for the longest one."""
    from lepton_edge.api import model_folder
    from lepton_edge.checkpoint import Checkpoint
    from lepton_edge.models.registry import spec_from_config, spec_of
    from lepton_edge.quant.random import RandomCheckpoint
    from lepton_edge.runtime import Engine

    checkpoint: Checkpoint | RandomCheckpoint
    if arguments.shape:
        spec = spec_from_config(SHAPES[arguments.shape], f"--shape {arguments.shape}")
        checkpoint = RandomCheckpoint(spec.tensors(), arguments.format or "q4", SEED)
    else:
        checkpoint = Checkpoint.open(model_folder(arguments.model))
        spec = spec_of(checkpoint)
    return Engine.load(
        checkpoint,
        spec,
        format=arguments.format,
        threads=arguments.threads,
        isa=arguments.isa,
        notify=notify,
        context=arguments.n_depth + max(arguments.n_prompt, arguments.n_gen),
    )


def _runs(engine: "Engine", n: int, depth: int, chunk: int, repeat: int) -> Iterator[float]:
    """Seconds of a run over n random tokens, `chunk` at a time, that warms up, and then of `repeat` more."""
    import numpy as np

    tokens = np.random.default_rng(SEED).integers(0, engine.vocab, depth + n, dtype=np.int32)
    slot = engine.open()
    try:
        _feed(engine, slot, tokens[:depth], 0, engine.max_batch)
        for _ in range(repeat + 1):
            engine.truncate(slot, depth)
            started = time.perf_counter()
            _feed(engine, slot, tokens[depth:], depth, chunk)
            yield time.perf_counter() - started
    finally:
        engine.close_slot(slot)


def _feed(engine: "Engine", slot: int, tokens: "np.ndarray", start: int, chunk: int) -> None:
    """Runs tokens int32 [T] at positions start… through the engine; logits of each chunk's last token only."""
    import numpy as np

    for at in range(0, len(tokens), chunk):
        part = tokens[at : at + chunk]
        positions = np.arange(start + at, start + at + len(part), dtype=np.int32)
        engine.forward(part, np.full(len(part), slot, np.int32), positions, np.array([len(part) - 1], np.int32))


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
