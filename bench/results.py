"""One measured speed, and the JSON-lines files that keep them: bench/results/DATE-HOST.jsonl."""

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Protocol

from bench.idle import LIMIT

__all__ = ["FOLDER", "Result", "ResultsError", "append", "latest", "newest", "read", "speedup"]

FOLDER = Path(__file__).resolve().parent / "results"


class ResultsError(Exception):
    """A results file is absent or is not what `bench.e2e` writes."""


@dataclass(frozen=True)
class Result:
    """What one engine did in one test: a sample of tokens per second from each round."""

    run: str  # when the run began, UTC, ISO 8601: the same in every result of a run
    host: str
    cpu: str
    cores: int
    system: str
    engine: str
    version: str
    commit: str  # of this repository, with '-dirty' when the tree had changes
    command: str
    shape: str
    format: str
    threads: int
    isa: str  # the instruction set that this project ran on, and that a peer was built for
    test: str
    samples: tuple[float, ...]
    others: float | None  # the most that other processes used during a sample, in cores; None: not known

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def low(self) -> float:
        return min(self.samples)

    @property
    def high(self) -> float:
        return max(self.samples)

    @property
    def disturbed(self) -> bool:
        """Whether other processes took so much of the machine that the figures mean little."""
        return self.others is not None and self.others > LIMIT

    @property
    def case(self) -> tuple[str, str, int, str, str]:
        """What was measured, whichever engine did it."""
        return self.shape, self.format, self.threads, self.isa, self.test

    @property
    def machine(self) -> tuple[str, str, int]:
        """Where it was measured: speeds of different machines are never set against each other."""
        return self.host, self.cpu, self.cores

    def line(self) -> str:
        """The result as one line of JSON; the figures derived from the samples are there for people and plots."""
        derived = {"unit": "tok/s", "median": self.median, "min": self.low, "max": self.high}
        return json.dumps({**asdict(self), **derived})


class HasLine(Protocol):
    """What a results file can keep."""

    def line(self) -> str: ...


def append(path: Path, results: Iterable[HasLine]) -> None:
    """Adds results to a file; makes the file and its folder when they do not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(result.line() + "\n" for result in results)


def read(path: Path) -> list[Result]:
    """Every result in a file, in the order of writing. Raises ResultsError naming the file and the line."""
    results = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            samples = tuple(float(value) for value in row["samples"])
            values = {field.name: row[field.name] for field in fields(Result)}
        except (ValueError, KeyError, TypeError) as error:
            raise ResultsError(f"{path}, line {number}: not a result of bench.e2e ({error!r})") from error
        if not samples or not all(0 < value < float("inf") for value in samples):
            raise ResultsError(f"{path}, line {number}: samples must be positive speeds, got {row['samples']}")
        results.append(Result(**{**values, "samples": samples}))
    return results


def newest(folder: Path = FOLDER) -> tuple[Path, list[Result]]:
    """The file with the newest run in a folder, and in it the newest run of each machine, the newest machine first.

    Raises ResultsError when there is none.
    """
    runs = [(result.run, path) for path in sorted(folder.glob("*.jsonl")) for result in read(path)]
    if not runs:
        raise ResultsError(f"{folder}: no results; make some with python -m bench.e2e")
    _, path = max(runs)
    results = read(path)
    last: dict[tuple[str, str, int], str] = {}
    for result in results:
        last[result.machine] = max(result.run, last.get(result.machine, ""))
    kept = latest(result for result in results if result.run == last[result.machine])
    return path, sorted(kept, key=lambda result: result.run, reverse=True)


def latest(results: Iterable[Result]) -> list[Result]:
    """The last result of each engine in each case on each machine: what was measured again counts once."""
    return list({(result.machine, result.engine, result.case): result for result in results}.values())


def speedup(result: Result, results: Iterable[Result], engine: str = "lepton_edge") -> float | None:
    """How many times faster `engine` was than `result` in the same case, by medians; None when it was not measured."""
    for other in results:
        if other.engine == engine and other.case == result.case:
            return other.median / result.median
    return None
