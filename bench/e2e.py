"""This project and its installed peers at the same shapes and threads, measured in turns in one run.

    python -m bench.e2e --llama-bench PATH

Every round measures each engine once, in an order that is turned round from round to round, so that a machine that
slows down or speeds up treats all alike. Medians and spreads are over rounds. What other processes used meanwhile is
kept too, and a run on a busy machine is marked. A peer that is absent is skipped, and the reason printed.

llama-bench, from the sdist of llama-cpp-python (pip download --no-deps --no-binary :all: llama-cpp-python):

    cd vendor/llama.cpp
    cmake -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF
    cmake --build build --target llama-bench
"""

import argparse
import datetime
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

from bench.engines import GGML_TYPES, GGUF_FOLDER, ROOT, Engine, EngineError, Job, Lepton, LlamaCpp, Reading, measure
from bench.results import FOLDER, Result, append, speedup
from lepton_edge.cli.shapes import SHAPES

ROW = "{:<13} {:<4} {:<6} {:<14} {:>9} {:>9} {:>9} {:>8}"


def cpu_model() -> str:
    """The CPU's name with family and model, which tell apart the CPUs that a hypervisor gives one name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    if "model name" not in facts:
        return platform.machine()
    return f"{facts['model name']} (family {facts.get('cpu family')}, model {facts.get('model')})"


def commit() -> str:
    """The commit of this repository, with '-dirty' when files it tracks have changed; 'unknown' outside git."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def facts() -> dict:
    """The fields of a Result that are the same for every result of this run."""
    return {
        "run": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "host": platform.node() or "unknown",
        "cpu": cpu_model(),
        "cores": os.cpu_count() or 0,
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "commit": commit(),
    }


def take_turns(engines: list[Engine], job: Job, rounds: int) -> dict[str, list[Reading]]:
    """Measures every engine once a round; engine name -> its readings."""
    readings: dict[str, list[Reading]] = {engine.name: [] for engine in engines}
    for number in range(rounds):
        for engine in engines if number % 2 == 0 else reversed(engines):
            readings[engine.name].append(measure(engine, job))
        print(f"{job.shape}: round {number + 1} of {rounds}", file=sys.stderr)
    return readings


def to_results(engine: Engine, job: Job, readings: list[Reading], run: dict) -> list[Result]:
    """One Result for each of the job's tests."""
    others = [reading.others for reading in readings if reading.others is not None]
    return [
        Result(
            **run,
            engine=engine.name,
            version=readings[0].version,
            command=shlex.join(engine.command(job)),
            shape=job.shape,
            format=job.format,
            threads=job.threads,
            test=test,
            samples=tuple(reading.speeds[test] for reading in readings),
            others=round(max(others), 3) if others else None,
        )
        for test in job.tests
    ]


def table(results: list[Result]) -> str:
    """The results as text of at most 80 columns; a speed-up is lepton_edge's median over the row's."""
    rows = [ROW.format("shape", "fmt", "test", "engine", "median", "min", "max", "speed-up")]
    for result in sorted(results, key=lambda result: list(SHAPES).index(result.shape)):
        ratio = speedup(result, results)
        shown = "" if ratio is None or result.engine == Lepton.name else f"{ratio:.2f}"
        speeds = [f"{speed:.1f}" for speed in (result.median, result.low, result.high)]
        rows.append(ROW.format(result.shape, result.format, result.test, result.engine, *speeds, shown))
    return "\n".join(row.rstrip() for row in rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.e2e", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shapes", nargs="*", metavar="SHAPE", help=f"of {', '.join(SHAPES)}; all when none is named")
    parser.add_argument("--format", choices=GGML_TYPES, default="q4")
    parser.add_argument("-p", type=int, default=256, metavar="TOKENS", help="prompt (default: %(default)s)")
    parser.add_argument("-n", type=int, default=64, metavar="TOKENS", help="new tokens (default: %(default)s)")
    parser.add_argument("-t", type=int, default=2, metavar="THREADS", help="threads (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--llama-bench", type=Path, default=os.environ.get("LEPTON_LLAMA_BENCH"), metavar="PATH")
    parser.add_argument("--gguf", type=Path, default=GGUF_FOLDER, metavar="FOLDER", help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="(default: bench/results/DATE-HOST.jsonl)")
    args = parser.parse_args()
    unknown = sorted(set(args.shapes) - set(SHAPES))
    if unknown:
        parser.error(f"unknown shape {', '.join(unknown)}; there are {', '.join(SHAPES)}")
    if min(args.p, args.n, args.t, args.rounds) < 1:
        parser.error("-p, -n, -t and --rounds must be at least 1")
    return args


def main() -> int:
    args = arguments()
    run = facts()
    path = args.out or FOLDER / f"{run['run'][:10]}-{run['host']}.jsonl"
    llama_bench = args.llama_bench and args.llama_bench.resolve()
    engines: list[Engine] = [Lepton(), LlamaCpp(llama_bench, args.gguf.resolve())]
    results: list[Result] = []
    for shape in args.shapes or SHAPES:
        job = Job(shape, args.format, args.p, args.n, args.t)
        reasons = {engine.name: engine.missing(job) for engine in engines}
        for name, reason in reasons.items():
            if reason:
                print(f"{shape}: {name} skipped: {reason}", file=sys.stderr)
        present = [engine for engine in engines if reasons[engine.name] is None]
        try:
            readings = take_turns(present, job, args.rounds)
        except EngineError as error:
            print(f"bench.e2e: error: {error}", file=sys.stderr)
            return 1
        measured = [result for engine in present for result in to_results(engine, job, readings[engine.name], run)]
        append(path, measured)
        results += measured
    print(table(results))
    if any(result.disturbed for result in results):
        most = max(result.others or 0.0 for result in results)
        print(f"DISTURBED: other processes used up to {most:.2f} cores; measure again when idle")
    print(f"tok/s, {args.rounds} rounds, {args.t} threads\n{run['cpu']}\nwritten to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
