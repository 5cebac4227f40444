"""The engines that `bench.e2e` compares: the command that measures each, and how its answer reads."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from bench.idle import Watch

__all__ = [
    "GGML_TYPES",
    "GGUF_FOLDER",
    "ROOT",
    "Engine",
    "EngineError",
    "Job",
    "Lepton",
    "LlamaCpp",
    "Reading",
    "gguf_name",
    "measure",
    "parse_lepton",
    "parse_llama",
]

ROOT = Path(__file__).resolve().parents[1]
GGML_TYPES = {"q4": "Q4_0", "q8": "Q8_0"}  # our format -> llama.cpp's of the same width
GGUF_FOLDER = Path("build/gguf")  # where bench.gguf_random writes and bench.e2e looks, unless told otherwise


def gguf_name(shape: str, format: str) -> str:
    """The file name under which a shape in one of our formats is kept for llama.cpp."""
    return f"{shape}-{GGML_TYPES[format].lower()}.gguf"


class EngineError(Exception):
    """An engine was started and failed, or answered something that is no measurement."""


@dataclass(frozen=True)
class Job:
    """One thing to measure: a shape in one of our formats, a prompt of `prompt` tokens, then `new` tokens."""

    shape: str
    format: str
    prompt: int
    new: int
    threads: int

    @property
    def tests(self) -> tuple[str, str]:
        """The names of the two tests, as llama.cpp gives them: 'pp256' is the prompt, 'tg64' the new tokens."""
        return f"pp{self.prompt}", f"tg{self.new}"

    def arguments(self) -> list[str]:
        """The flags that `lepton bench` and `llama-bench` share."""
        return ["-p", str(self.prompt), "-n", str(self.new), "-r", "1", "-t", str(self.threads), "-o", "json"]


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

    def parse(self, text: str) -> Reading:
        """Reads what the command printed. Raises ValueError, KeyError or TypeError when it is something else."""


class Lepton:
    """This project, in the interpreter that runs the benchmark."""

    name = "lepton_edge"

    def missing(self, job: Job) -> str | None:
        return None

    def command(self, job: Job) -> list[str]:
        shape = ["--shape", job.shape, "--format", job.format]
        return [sys.executable, "-m", "lepton_edge", "bench", *shape, *job.arguments()]

    def parse(self, text: str) -> Reading:
        return parse_lepton(text)


class LlamaCpp:
    """llama.cpp through its own `llama-bench`, on a file that `bench.gguf_random` wrote."""

    name = "llama.cpp"

    def __init__(self, program: Path | None, folder: Path) -> None:
        self.program = program
        self.folder = folder

    def missing(self, job: Job) -> str | None:
        if self.program is None:
            return "no llama-bench: give --llama-bench PATH or set LEPTON_LLAMA_BENCH"
        if not os.access(self.program, os.X_OK):
            return f"{self.program} is not a program that can be run"
        path = self.folder / gguf_name(job.shape, job.format)
        if not path.is_file():
            return f"no {path}: python -m bench.gguf_random --format {job.format} --dir {self.folder} {job.shape}"
        return None

    def command(self, job: Job) -> list[str]:
        return [str(self.program), "-m", str(self.folder / gguf_name(job.shape, job.format)), *job.arguments()]

    def parse(self, text: str) -> Reading:
        return parse_llama(text)


def parse_lepton(text: str) -> Reading:
    """Reads the answer of `lepton bench -o json`."""
    rows = _rows(text)
    return Reading(str(rows[0]["version"]), {row["test"]: _speed(row["tok_s_mean"]) for row in rows})


def parse_llama(text: str) -> Reading:
    """Reads the answer of `llama-bench -o json`."""
    rows = _rows(text)
    speeds = {}
    for row in rows:
        test = f"tg{row['n_gen']}" if row["n_gen"] else f"pp{row['n_prompt']}"
        speeds[test] = _speed(row["avg_ts"])
    return Reading(str(rows[0]["build_commit"]), speeds)


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
        reading = replace(engine.parse(done.stdout), others=others)
    except (ValueError, KeyError, TypeError) as error:
        raise EngineError(f"{engine.name}: cannot read its answer ({error!r}): {done.stdout[:200]!r}") from error
    absent = set(job.tests) - set(reading.speeds)
    if absent:
        raise EngineError(f"{engine.name}: its answer has no {' and no '.join(sorted(absent))}")
    return reading


def _rows(text: str) -> list[dict]:
    rows = json.loads(text)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError("expected a list of objects")
    return rows


def _speed(value: object) -> float:
    if not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"{value!r} is no speed")
    return float(value)
