"""What every peer's program has in common: llama-bench's flags, its tests and its answer."""

import argparse
import json
import random
import time
from collections.abc import Callable
from typing import Protocol

__all__ = ["Model", "main", "measure"]


class Model(Protocol):
    """A peer's model with its cache."""

    version: str
    vocab: int

    def reset(self, room: int) -> None:
        """Empties the cache and sees to it that `room` tokens fit."""

    def feed(self, tokens: list[int]) -> None:
        """Runs the tokens in one go, behind those in the cache, up to the logits of the last one."""

    def step(self) -> None:
        """Picks the most likely token and runs it, in whichever order; there is at least one token in the cache."""


def measure(model: Model, prompt: int, new: int, depth: int, repeat: int) -> list[dict]:
    """Rows of llama-bench's tests ppN and tgN with `depth` tokens in the cache; `repeat` samples after a warm-up."""
    at = f" @ d{depth}" if depth else ""
    rows = []
    if prompt:
        samples = [prompt / _prompt_seconds(model, prompt, depth) for _ in range(repeat + 1)][1:]
        rows.append(_row(model, f"pp{prompt}{at}", samples))
    if new:
        samples = [new / _step_seconds(model, new, depth) for _ in range(repeat + 1)][1:]
        rows.append(_row(model, f"tg{new}{at}", samples))
    return rows


def _prompt_seconds(model: Model, prompt: int, depth: int) -> float:
    tokens = _tokens(model, depth + prompt)
    model.reset(depth + prompt)
    if depth:
        model.feed(tokens[:depth])
    started = time.perf_counter()
    model.feed(tokens[depth:])
    return time.perf_counter() - started


def _step_seconds(model: Model, new: int, depth: int) -> float:
    """A step needs the token before it: an empty cache gets one. The first step may only pick, and is not timed."""
    before = max(depth, 1)
    model.reset(before + 1 + new)
    model.feed(_tokens(model, before))
    model.step()
    started = time.perf_counter()
    for _ in range(new):
        model.step()
    return time.perf_counter() - started


def _tokens(model: Model, count: int) -> list[int]:
    chosen = random.Random(1)
    return [chosen.randrange(model.vocab) for _ in range(count)]


def _row(model: Model, test: str, samples: list[float]) -> dict:
    return {"test": test, "tok_s_mean": sum(samples) / len(samples), "samples": samples, "version": model.version}


def main(load: Callable[[str, int], Model], what: str) -> None:
    """The command line: `load(what, threads)` gives the model; `what` is also the name of the flag that names it."""
    parser = argparse.ArgumentParser()
    parser.add_argument(f"--{what}", dest="what", required=True)
    for flag, value in (("-p", 512), ("-n", 64), ("-d", 0), ("-r", 5), ("-t", 2)):
        parser.add_argument(flag, type=int, default=value)
    parser.add_argument("-o", choices=("json",), default="json")
    args = parser.parse_args()
    print(json.dumps(measure(load(args.what, args.t), args.p, args.n, args.d, args.r)))
