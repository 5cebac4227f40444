"""This project and its installed peers at the same shapes and threads, measured in turns in one run.

    python -m bench.e2e --all --resume [SHAPE]     what issue 3 asks to be shown, against its targets
    python -m bench.e2e --format q8 -p 512 -n 64   something else

Every round measures each engine once, in an order that is turned round from round to round, so that a machine that
slows down or speeds up treats all alike. Medians and spreads are over rounds. What other processes used meanwhile is
kept too, and a run on a busy machine is marked. A peer that is absent is skipped, and the reason printed.

--all goes piece by piece (see bench/plan.py), each written when it is complete; --resume goes on with the newest run
and leaves out what it has, unless that was disturbed. --piece takes one of them, and --minutes bounds each.

llama-bench, from the sdist of llama-cpp-python (pip download --no-deps --no-binary :all: llama-cpp-python):

    cd vendor/llama.cpp
    cmake -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF
    cmake --build build --target llama-bench llama-batched-bench

On a CPU with AMX, GCC 12 drops the stores to `tc` before `_tile_loadconfig(&tc)` in ggml/src/ggml-cpu/amx/mmq.cpp, and
the program dies of an illegal instruction: put `asm volatile("" :: "r"(&tc) : "memory");` before that line.

A second build, for --llama-bench-avx2, has AVX2 and no AVX512 on any machine:

    cmake -B build-avx2 -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=OFF -DLLAMA_CURL=OFF

onnxruntime-genai and transformers, in a virtual environment PEERS of their own:

    python -m venv PEERS && PEERS/bin/pip install torch transformers onnxruntime-genai onnx onnx-ir
"""

import argparse
import datetime
import math
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path

from bench import plan
from bench.engines import (
    GENAI_FOLDER,
    GGML_TYPES,
    GGUF_FOLDER,
    ROOT,
    Engine,
    EngineError,
    GenAI,
    Job,
    Lepton,
    LlamaCpp,
    Reading,
    Transformers,
    measure,
    peers_python,
)
from bench.results import FOLDER, Result, ResultsError, append, latest, newest, speedup
from lepton_edge.cli.shapes import SHAPES
from lepton_edge.kernels.machine import available

ROW = "  {:<13} {:<18} {:>9} {:>9} {:>9} {:>9}"

Turn = tuple[Engine, Job]


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
    """The commit of this repository, with '-dirty' when files it tracks have changed; 'unknown' outside git.

    Results do not count, or each run would make the next one dirty.
    """
    try:
        name = _git("rev-parse", "--short", "HEAD").strip()
        return name + ("-dirty" if _git("diff", "--name-only", "HEAD", "--", ".", ":!bench/results") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


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


def resumed(run: dict, path: Path, results: list[Result]) -> list[Result]:
    """The results of the newest run, which `run` goes on with. Raises ResultsError when it was made elsewhere."""
    found = [result for result in results if result.run == results[0].run]
    for key, value in run.items():
        had = getattr(found[0], key)
        if key != "run" and had != value:
            raise ResultsError(f"{path}: its newest run has {key} {had!r}, here it is {value!r}; leave out --resume")
    return found


def take_turns(turns: list[Turn], rounds: int, seconds: float = math.inf) -> list[list[Reading]]:
    """Does every turn once a round; -> the readings of each. No round is begun that would not end within `seconds`."""
    readings: list[list[Reading]] = [[] for _ in turns]
    order = list(range(len(turns)))
    started = time.perf_counter()
    for number in range(rounds):
        spent = time.perf_counter() - started
        if number and spent / number * (number + 1) > seconds:
            break
        for index in order if number % 2 == 0 else reversed(order):
            readings[index].append(measure(*turns[index]))
        print(f"  round {number + 1} of {rounds}", file=sys.stderr)
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
            isa=job.isa,
            test=test,
            samples=tuple(reading.speeds[test] for reading in readings),
            others=round(max(others), 3) if others else None,
        )
        for test in job.tests
    ]


def present(engines: list[Engine], jobs: list[Job], said: set[str]) -> list[Turn]:
    """Who does which job; why a peer cannot is printed, once for each reason in `said`."""
    turns = []
    for job in jobs:
        for engine in engines:
            if engine.name != Lepton.name and job.peers is not None and engine.name not in job.peers:
                continue
            reason = engine.missing(job)
            if reason is None:
                turns.append((engine, job))
            elif (line := f"{engine.name} skipped: {reason}") not in said:
                said.add(line)
                print(line, file=sys.stderr)
    return turns


def table(results: list[Result]) -> str:
    """The results as text of at most 80 columns; a speed-up is lepton_edge's median over the row's."""
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in sorted(results, key=lambda result: list(SHAPES).index(result.shape)):
        groups.setdefault((result.shape, result.format, result.isa), []).append(result)
    rows = [ROW.format("test", "engine", "median", "min", "max", "speed-up")]
    for group, members in groups.items():
        rows.append(" ".join(group))
        for result in sorted(members, key=lambda result: result.test):
            factor = speedup(result, results)
            shown = "" if factor is None or result.engine == Lepton.name else f"{factor:.2f}"
            speeds = [f"{speed:.1f}" for speed in (result.median, result.low, result.high)]
            rows.append(ROW.format(result.test, result.engine, *speeds, shown))
    return "\n".join(row.rstrip() for row in rows)


def numbers(text: str) -> list[int]:
    """An argparse type: whole numbers with commas between them."""
    found = [int(part) for part in text.split(",")]
    if min(found) < 0:
        raise ValueError("below 0")
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.e2e", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shapes", nargs="*", metavar="SHAPE", help=f"of {', '.join(SHAPES)}; all when none is named")
    parser.add_argument("--all", action="store_true", help="what issue 3 asks for, of the SHAPEs")
    parser.add_argument("--piece", choices=plan.pieces("", 1, ("avx512", "avx2")), help="of --all, only this piece")
    parser.add_argument("--resume", action="store_true", help="go on with the newest run")
    parser.add_argument("--format", choices=GGML_TYPES, default="q4")
    parser.add_argument("-p", type=numbers, default=[512], metavar="TOKENS,…", help="prompts; 0: none (default: 512)")
    parser.add_argument("-n", type=int, default=64, metavar="TOKENS", help="new tokens; 0: none (default: 64)")
    parser.add_argument("-d", "--depth", type=int, default=0, metavar="TOKENS", help="tokens in the cache before")
    parser.add_argument("-b", "--batch", type=numbers, default=[1], metavar="SEQUENCES,…", help="(default: 1)")
    parser.add_argument("--isa", choices=available(), default=available()[0], help="(default: %(default)s)")
    parser.add_argument("-t", type=int, default=2, metavar="THREADS", help="threads (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="fewer rounds of a piece that takes longer")
    parser.add_argument("--llama-bench", type=Path, default=os.environ.get("LEPTON_LLAMA_BENCH"), metavar="PATH")
    parser.add_argument(
        "--llama-bench-avx2", type=Path, default=os.environ.get("LEPTON_LLAMA_BENCH_AVX2"), metavar="PATH"
    )
    parser.add_argument("--gguf", type=Path, default=GGUF_FOLDER, metavar="FOLDER", help="(default: %(default)s)")
    parser.add_argument("--peers-python", type=Path, default=peers_python(), metavar="PATH", help="of the other peers")
    parser.add_argument("--genai", type=Path, default=GENAI_FOLDER, metavar="FOLDER", help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="(default: bench/results/DATE-HOST.jsonl)")
    args = parser.parse_args()
    unknown = sorted(set(args.shapes) - set(SHAPES))
    if unknown:
        parser.error(f"unknown shape {', '.join(unknown)}; there are {', '.join(SHAPES)}")
    if min(args.t, args.rounds, *args.batch) < 1 or min(args.n, args.depth) < 0:
        parser.error("-t, -b and --rounds must be at least 1, -n and -d at least 0")
    if not any(args.p) and not args.n:
        parser.error("-p 0 -n 0: nothing to measure")
    if args.resume and args.out:
        parser.error("--resume goes on in the file that it finds: leave out --out")
    return args


def engines(args: argparse.Namespace) -> list[Engine]:
    """This project and the peers that the arguments say where to find."""
    builds = {available()[0]: args.llama_bench}
    if args.llama_bench_avx2:
        builds.setdefault("avx2", args.llama_bench_avx2)
    programs = {isa: path.absolute() for isa, path in builds.items() if path}
    python = args.peers_python and args.peers_python.absolute()  # not resolve(): a venv's python is a link
    genai = GenAI(python, args.genai.absolute())
    return [Lepton(), LlamaCpp(programs, args.gguf.absolute()), genai, Transformers(python)]


def pieces(args: argparse.Namespace) -> list[tuple[str, list[Job]]]:
    """What to measure, each piece with its title."""
    found = []
    for shape in args.shapes or plan.SHAPES:
        if args.all:
            planned = plan.pieces(shape, args.t, available())
            found += [(f"{shape}: {name}", jobs) for name, jobs in planned.items() if args.piece in (None, name)]
            continue
        # The instruction set of other peers cannot be chosen.
        peers = None if args.isa == available()[0] else (LlamaCpp.name,)
        base = dict(shape=shape, format=args.format, threads=args.t, isa=args.isa, depth=args.depth, peers=peers)
        jobs = [Job(**base, prompt=prompt) for prompt in args.p if prompt]
        jobs += [Job(**base, new=args.n, batch=batch) for batch in args.batch if args.n]
        found.append((f"{shape}: {args.format}", jobs))
    return found


def main() -> int:
    args = arguments()
    run = facts()
    path = args.out or FOLDER / f"{run['run'][:10]}-{run['host']}.jsonl"
    results: list[Result] = []
    said: set[str] = set()
    try:
        if args.resume:
            path, found = newest()
            results = resumed(run, path, found)
            run["run"] = results[0].run
        for title, jobs in pieces(args):
            done = {(result.engine, result.case) for result in results if not result.disturbed}
            turns = [turn for turn in present(engines(args), jobs, said) if not _is_done(turn, done)]
            if not turns:
                continue
            print(title, file=sys.stderr)
            readings = take_turns(turns, args.rounds, 60 * args.minutes)
            new = [found for turn, read in zip(turns, readings, strict=True) for found in to_results(*turn, read, run)]
            append(path, new)
            results = latest([*results, *new])
    except (EngineError, ResultsError) as error:
        print(f"bench.e2e: error: {error}", file=sys.stderr)
        return 1
    print(table(results))
    if args.all:
        print(f"\n{plan.report(results, available()[0])}\n")
    if any(result.disturbed for result in results):
        most = max(result.others or 0.0 for result in results)
        print(f"DISTURBED: other processes used up to {most:.2f} cores; measure again when idle")
    print(f"tok/s, {args.t} threads\n{run['cpu']}\nwritten to {path}")
    return 0


def _is_done(turn: Turn, done: set[tuple]) -> bool:
    engine, job = turn
    return all((engine.name, (job.shape, job.format, job.threads, job.isa, test)) in done for test in job.tests)


if __name__ == "__main__":
    sys.exit(main())
