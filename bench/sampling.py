"""What choosing a token costs: its share of a decoding step, the summary of the logits included.

    python -m bench.sampling [SHAPE …] [-n TOKENS] [-t THREADS]

The kinds of sampling take turns, token after token, on one sequence of random weights; figures are medians. Time of the
step's two summary rows comes from a profile of the same steps.
"""

import argparse
import statistics
import time

import numpy as np

from bench import plan
from lepton_edge.cli.shapes import SHAPES
from lepton_edge.generate.params import SamplingParams
from lepton_edge.generate.sampling import Sampler
from lepton_edge.models.registry import spec_from_config
from lepton_edge.quant.random import RandomCheckpoint
from lepton_edge.runtime import Engine

KINDS = {
    "greedy": SamplingParams(),
    "top-k 40": SamplingParams(temperature=0.8, top_k=40, seed=1),
    "top-p 0.95": SamplingParams(temperature=0.8, top_p=0.95, seed=1),
    "min-p 0.05": SamplingParams(temperature=0.8, min_p=0.05, seed=1),
    "all tokens": SamplingParams(temperature=1.0, seed=1),
}
SUMMARY = ("block_peaks", "top")


def measure(shape: str, count: int, threads: int | None) -> tuple[Engine, dict[str, float], dict[str, float], float]:
    """The engine, by kind the medians of seconds in a step and in `choose`, and the summary's seconds in a step."""
    spec = spec_from_config(SHAPES[shape], shape)
    engine = Engine.load(RandomCheckpoint(spec.tensors(), "q4", 1, spec.matrices()), spec, threads=threads,
                         context=len(KINDS) * (count + 1) + 1)  # fmt: skip
    slot, token = engine.open(), np.ones(1, np.int32)
    samplers = {kind: Sampler(params, token, engine.vocab) for kind, params in KINDS.items()}
    steps: dict[str, list[float]] = {kind: [] for kind in KINDS}
    choices: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with engine.profile() as profile:
        for position in range(len(KINDS) * (count + 1)):
            kind = list(KINDS)[position % len(KINDS)]
            sampler, at = samplers[kind], np.array([position], np.int32)
            started = time.perf_counter()
            summary = engine.step(token, np.array([slot]), at, np.zeros(1, np.int32), (sampler.temperature,))
            stepped = time.perf_counter()
            token = np.array([sampler.choose(summary, 0)[0]], np.int32)
            steps[kind].append(stepped - started)
            choices[kind].append(time.perf_counter() - stepped)
    seconds = sum(op.seconds for op in profile.ops() if op.op in SUMMARY)
    middle = [{kind: statistics.median(times[1:]) for kind, times in found.items()} for found in (steps, choices)]
    return engine, middle[0], middle[1], seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", metavar="SHAPE", default=list(plan.SHAPES), help=f"of {', '.join(SHAPES)}")
    parser.add_argument("-n", "--tokens", type=int, default=64, help="of each kind of sampling")
    parser.add_argument("-t", "--threads", type=int)
    arguments = parser.parse_args()
    print("| shape | vocabulary | sampling | step, us | of it summary, us | choice, us | share of a token |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: |")
    for shape in arguments.shapes:
        engine, steps, choices, summary = measure(shape, arguments.tokens, arguments.threads)
        for kind in KINDS:
            step, choice = steps[kind], choices[kind]
            share = 100 * (choice + summary) / (step + choice)
            print(f"| {shape} | {engine.vocab} | {kind} | {1e6 * step:.0f} | {1e6 * summary:.0f} | {1e6 * choice:.0f} "
                  f"| {share:.2f}% |", flush=True)  # fmt: skip
        engine.close()


if __name__ == "__main__":
    main()
