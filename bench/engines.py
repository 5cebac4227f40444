"""The engines that `bench.e2e` compares: the command that measures each, and how its answer reads."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

from bench.idle import Watch

__all__ = [
    "GENAI_FOLDER",
    "GGML_TYPES",
    "GGUF_FOLDER",
    "ROOT",
    "Engine",
    "EngineError",
    "GenAI",
    "Job",
    "Lepton",
    "LlamaCpp",
    "Reading",
    "Transformers",
    "gguf_name",
    "measure",
    "parse_batched",
    "parse_llama",
    "parse_rows",
    "peers_python",
]

ROOT = Path(__file__).resolve().parents[1]
GGML_TYPES = {"q4": "Q4_0", "q8": "Q8_0", "bf16": "BF16"}  # our format -> llama.cpp's of the same width
GGUF_FOLDER = Path("build/gguf")  # where bench.gguf_random writes and bench.e2e looks, unless told otherwise
GENAI_FOLDER = Path("build/genai")  # likewise for bench.genai_random


def gguf_name(shape: str, format: str) -> str:
    """The file name under which a shape in one of our formats is kept for llama.cpp."""
    return f"{shape}-{GGML_TYPES[format].lower()}.gguf"


def peers_python() -> Path | None:
    """The interpreter of the virtual environment $LEPTON_BENCH_PEERS, which has the peers that are packages."""
    folder = os.environ.get("LEPTON_BENCH_PEERS")
    return Path(folder, "Scripts/python.exe" if os.name == "nt" else "bin/python") if folder else None


class EngineError(Exception):
    """An engine was started and failed, or answered something that is no measurement."""


@dataclass(frozen=True)
class Job:
    """One thing to measure: a shape in one of our formats, a prompt of `prompt` tokens, then `new` tokens.

    Either is left out when 0. depth: tokens in the cache before. batch: sequences that the new tokens are made for in
    each step. isa: the instruction set, by our name. peers: who measures it besides this project; None for all.
    """

    shape: str
    format: str
    threads: int
    isa: str
    prompt: int = 0
    new: int = 0
    depth: int = 0
    batch: int = 1
    peers: tuple[str, ...] | None = None

    @property
    def tests(self) -> tuple[str, ...]:
        """The tests' names, as llama.cpp gives them: 'pp256' is a prompt, 'tg64' new tokens; 'tg64 x8 @ d4096'."""
        depth = f" @ d{self.depth}" if self.depth else ""
        batch = f" x{self.batch}" if self.batch > 1 else ""
        prompt = (f"pp{self.prompt}{depth}",) if self.prompt else ()
        return (*prompt, f"tg{self.new}{batch}{depth}") if self.new else prompt

    def arguments(self) -> list[str]:
        """The flags that `lepton bench`, `llama-bench` and our programs for other peers share."""
        sizes = ["-p", str(self.prompt), "-n", str(self.new), "-d", str(self.depth)]
        return [*sizes, "-r", "1", "-t", str(self.threads), "-o", "json"]


@dataclass(frozen=True)
class Reading:
    """What an engine answered: its version, and tokens per second for each test.

    `others`: how much of a core other processes used meanwhile; None where that is not known.
    """

    version: str
    speeds: Mapping[str, float]
    others: float | None = None


class Engine(Protocol):
    """An engine to measure."""

    name: str

    def missing(self, job: Job) -> str | None:
        """Why this engine cannot do `job` here, and what to do about it; None when it can."""

    def command(self, job: Job) -> list[str]:
        """The command that does `job` once."""

    def parse(self, text: str, job: Job) -> Reading:
        """Reads what the command printed. Raises ValueError, KeyError or TypeError when it is something else."""


class Lepton:
    """This project, in the interpreter that runs the benchmark."""

    name = "lepton_edge"

    def missing(self, job: Job) -> str | None:
        return None

    def command(self, job: Job) -> list[str]:
        what = ["--shape", job.shape, "--format", job.format, "--isa", job.isa, "-b", str(job.batch)]
        return [sys.executable, "-m", "lepton_edge", "bench", *what, *job.arguments()]

    def parse(self, text: str, job: Job) -> Reading:
        return parse_rows(text)


class LlamaCpp:
    """llama.cpp through its own `llama-bench`, on a file that `bench.gguf_random` wrote.

    programs: a build for each instruction set, by our name. Batches are measured by the llama-batched-bench beside it.
    """

    name = "llama.cpp"

    def __init__(self, programs: Mapping[str, Path], folder: Path) -> None:
        self.programs = programs
        self.folder = folder

    def missing(self, job: Job) -> str | None:
        if job.format not in GGML_TYPES:
            return f"no {job.format}: it is measured with {', '.join(GGML_TYPES)}"
        if job.isa not in self.programs:
            return f"no llama-bench for {job.isa}: give --llama-bench PATH or set LEPTON_LLAMA_BENCH"
        if not os.access(self._program(job), os.X_OK):
            return f"{self._program(job)} is not a program that can be run"
        path = self.folder / gguf_name(job.shape, job.format)
        if not path.is_file():
            return f"no {path}: python -m bench.gguf_random --format {job.format} --dir {self.folder} {job.shape}"
        return None

    def command(self, job: Job) -> list[str]:
        command = [str(self._program(job)), "-m", str(self.folder / gguf_name(job.shape, job.format))]
        if job.batch == 1:
            return [*command, *job.arguments()]
        before = max(job.depth, 1)
        room = job.batch * -(-(before + job.new) // 256) * 256  # it gives each sequence whole blocks of 256
        sizes = ["-c", str(room), "-npp", str(before), "-ntg", str(job.new), "-npl", str(job.batch)]
        return [*command, *sizes, "-t", str(job.threads), "--output-format", "jsonl"]

    def parse(self, text: str, job: Job) -> Reading:
        return parse_llama(text) if job.batch == 1 else Reading(self._version, parse_batched(text, job))

    def _program(self, job: Job) -> Path:
        program = self.programs[job.isa]
        return program if job.batch == 1 else program.with_name(program.name.replace("bench", "batched-bench"))

    @cached_property
    def _version(self) -> str:
        """What llama-bench says in its answers, and llama-batched-bench does not."""
        command = [str(next(iter(self.programs.values()))), "--version"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = re.search(r"commit ([^\s)]+)", done.stdout + done.stderr)
        return found[1] if found else "unknown"


class Package:
    """A peer that is a Python package: a program in bench/peers/, run by the interpreter that has the package."""

    name: str
    format: str
    module: str

    def __init__(self, python: Path | None) -> None:
        self.python = python

    def missing(self, job: Job) -> str | None:
        if job.format != self.format:
            return f"no {job.format}: it is measured with {self.format}"
        if job.batch > 1:
            return "no batches: it is measured with one sequence"
        if self.python is None:
            return "no interpreter that has it: give --peers-python PATH or set LEPTON_BENCH_PEERS"
        if not os.access(self.python, os.X_OK):
            return f"{self.python} is not a program that can be run"
        return None

    def command(self, job: Job) -> list[str]:
        return [str(self.python), "-m", f"bench.peers.{self.module}", *self.model(job), *job.arguments()]

    def model(self, job: Job) -> list[str]:
        """The flag that says what to measure."""
        return ["--shape", job.shape]

    def parse(self, text: str, job: Job) -> Reading:
        return parse_rows(text)


class Transformers(Package):
    """transformers on torch, in bf16."""

    name, format, module = "transformers", "bf16", "transformers_bf16"


class GenAI(Package):
    """onnxruntime-genai in int4, on a folder that `bench.genai_random` wrote."""

    name, format, module = "onnxruntime-genai", "q4", "genai"

    def __init__(self, python: Path | None, folder: Path) -> None:
        super().__init__(python)
        self.folder = folder

    def missing(self, job: Job) -> str | None:
        reason = super().missing(job)
        if reason is None and not (self.folder / job.shape).is_dir():
            make = f"python -m bench.genai_random --python {self.python} --dir {self.folder} {job.shape}"
            return f"no {self.folder / job.shape}: {make}"
        return reason

    def model(self, job: Job) -> list[str]:
        return ["--model", str(self.folder / job.shape)]


def parse_rows(text: str) -> Reading:
    """Reads the answer of `lepton bench -o json`, and of the programs in bench/peers/."""
    rows = _objects(json.loads(text))
    return Reading(str(rows[0]["version"]), {row["test"]: _speed(row["tok_s_mean"]) for row in rows})


def parse_llama(text: str) -> Reading:
    """Reads the answer of `llama-bench -o json`."""
    rows = _objects(json.loads(text))
    speeds = {}
    for row in rows:
        test = f"tg{row['n_gen']}" if row["n_gen"] else f"pp{row['n_prompt']}"
        speeds[test + (f" @ d{row['n_depth']}" if row["n_depth"] else "")] = _speed(row["avg_ts"])
    return Reading(str(rows[0]["build_commit"]), speeds)


def parse_batched(text: str, job: Job) -> dict[str, float]:
    """Reads the answer of `llama-batched-bench --output-format jsonl`: the speed of all sequences together."""
    rows = _objects([json.loads(line) for line in text.splitlines() if line.strip()])
    if [(row["tg"], row["pl"]) for row in rows] != [(job.new, job.batch)]:
        raise ValueError("an answer to something else")
    return {job.tests[-1]: _speed(rows[0]["speed_tg"])}


def measure(engine: Engine, job: Job, timeout: float = 900.0) -> Reading:
    """Runs `engine` on `job` once, alone, in a process of its own; `timeout` in seconds. Raises EngineError."""
    command = engine.command(job)
    watch = Watch()
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"{engine.name}: {error}") from error
    if done.returncode != 0:
        tail = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise EngineError(f"{engine.name}: exit code {done.returncode} from {' '.join(command)}\n{tail}")
    others = watch.others()
    try:
        reading = replace(engine.parse(done.stdout, job), others=others)
    except (ValueError, KeyError, TypeError) as error:
        raise EngineError(f"{engine.name}: cannot read its answer ({error!r}): {done.stdout[:200]!r}") from error
    absent = set(job.tests) - set(reading.speeds)
    if absent:
        raise EngineError(f"{engine.name}: its answer has no {' and no '.join(sorted(absent))}")
    return reading


def _objects(rows: object) -> list[dict]:
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError("expected a list of objects")
    return rows


def _speed(value: object) -> float:
    if not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"{value!r} is no speed")
    return float(value)
