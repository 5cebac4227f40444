"""Speed on an NVIDIA GPU, and its share of what the card can do: random weights of well-known shapes.

    python -m bench.cuda [--shape NAME …] [--format q4] [--rounds 5] [--output FILE]

Decoding one sequence and 64, and prompts of 2,048 tokens: medians of synchronized clocks around steps that leave their
logits on the device and bring their summary back.  Beside them, in the same run, the bandwidth of a copy on the device
and the int8 tensor cores' speed.  The limit of a test is the longer of bytes over bandwidth and operations over speed.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from lepton_edge.checkpoint.store import Weight
from lepton_edge.cli.shapes import SHAPES
from lepton_edge.kernels.layout import GROUP, GROUP_BYTES, PAGE, SCALES
from lepton_edge.kernels.ops import ROW
from lepton_edge.models.registry import spec_from_config
from lepton_edge.quant.random import RandomCheckpoint
from lepton_edge.runtime.cuda import CudaEngine
from lepton_edge.runtime.cuda.inputs import Packed
from lepton_edge.runtime.cuda.limits import bandwidth, tensor_speed
from lepton_edge.runtime.cuda.lower import Sizes, query_tile
from lepton_edge.runtime.cuda.plan import CudaPlan

HEADS = ("model.embed_tokens.weight", "lm_head.weight")
PROMPT, STEPS, MANY = 2048, 64, 64


class Distinct(RandomCheckpoint):
    """Random weights whose rows of the head differ: equal logits are what no model has, and dear to sort."""

    def weight(self, name: str) -> Weight:
        found = super().weight(name)
        if name not in HEADS or found.format not in GROUP_BYTES:
            return found
        rows, columns = found.shape
        data = found.data.reshape(-1, columns // GROUP, GROUP_BYTES[found.format]).copy()
        scales = data[:, :, :SCALES].copy().view(np.float16)
        by = np.random.default_rng(2).uniform(0.5, 1, (len(data), 1, scales.shape[2]))
        data[:, :, :SCALES] = (scales * by).astype(np.float16).view(np.uint8)
        return Weight(name, found.format, (rows, columns), data.reshape(-1))


def prompt(engine: CudaEngine, ids: Any) -> Iterator[Callable[[], int]]:
    """Runs of a prompt of a new sequence."""
    def run() -> int:
        slot = engine.open()
        engine.step(ids, [slot] * len(ids), range(len(ids)), [len(ids) - 1])
        engine.close_slot(slot)
        return len(ids)

    while True:
        yield run


def steps(engine: CudaEngine, ids: Any, count: int) -> Iterator[Callable[[], int]]:
    """Runs of some steps of `count` sequences, which grow."""
    slots = [engine.open() for _ in range(count)]
    place = 0

    def run() -> int:
        nonlocal place
        for _ in range(STEPS):
            engine.step(ids[:count], slots, [place] * count, range(count))
            place += 1
        return STEPS * count

    while True:
        yield run


def measure(runs: Iterator[Callable[[], int]], rounds: int) -> list[float]:
    """Tokens in a second of each round but the first two: those compile, and record graphs."""
    samples = []
    for _, run in zip(range(rounds + 2), runs, strict=False):
        started = time.perf_counter()
        tokens = run()
        samples.append(tokens / (time.perf_counter() - started))
    return samples[2:]


def profile(engine: CudaEngine, sizes: Sizes) -> None:
    """Print what each kernel of a step costs: the device's time of 20 launches after each other, which change nothing
    that matters here."""
    device, plan = engine._device, engine._plan
    assert isinstance(plan, CudaPlan) and isinstance(engine._inputs, Packed)
    found: dict[str, list[float]] = {}
    for part in plan.parts:
        for call in () if isinstance(part, range) else part:
            header = engine._inputs.header
            for launch in call.launch(plan._table.at, header, 8 * ROW, sizes):
                run = device.record(lambda launch=launch: device.launch([launch] * 20))
                run()
                stop = device.timer()
                run()
                label = f"{plan.program.rows[call.row].part} {launch[0]} {launch[4]}"
                found.setdefault(label, []).append(stop() / 20)
    total = sum(map(sum, found.values()))
    print(f"{total * 1e6:9.1f} us a step of {sizes}")
    for label, times in sorted(found.items(), key=lambda pair: -sum(pair[1])):
        print(f"{1e6 * sum(times):9.1f} us {100 * sum(times) / total:5.1f}% {len(times):4} x {label}")


def limit(engine: CudaEngine, tokens: int, sequences: int, seen: int, read: float, speed: float) -> float:
    """Tokens in a second that the card would allow: of steps of `tokens` tokens of some sequences, that see `seen`."""
    program = engine.program
    cached = sequences * seen * program.page_bytes / PAGE
    nbytes = program.step_bytes + cached
    parameters = sum(
        program.weights[name].shape[0] * program.weights[name].shape[1]
        for row in program.rows for name in row.products if row.count == 0
    )  # fmt: skip
    return tokens / max(nbytes / read, 2 * parameters * tokens / speed)


def tell(line: str) -> None:
    print(line, file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="append", choices=SHAPES)
    parser.add_argument("--format", default="q4")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--profile", action="store_true", help="what each kernel costs")
    arguments = parser.parse_args()
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    for shape in arguments.shape or ("smollm2-135m", "qwen2.5-0.5b", "llama-3.2-1b"):
        spec = spec_from_config(SHAPES[shape], shape)
        source = Distinct(spec.tensors(), arguments.format, 1, spec.matrices())
        engine = CudaEngine.load(source, spec, context=4096, threads=1, notify=tell)
        read, speed = bandwidth(), tensor_speed()
        ids = np.random.default_rng(1).integers(0, spec.vocab, PROMPT)
        tests = (
            ("decode", steps(engine, ids, 1), 1, 1, STEPS * arguments.rounds // 2),
            (f"prefill {PROMPT}", prompt(engine, ids), PROMPT, 1, PROMPT),
            (f"decode x{MANY}", steps(engine, ids, MANY), MANY, MANY, STEPS * arguments.rounds // 2),
        )
        for name, runs, tokens, sequences, seen in tests:
            samples = measure(runs, arguments.rounds)
            best = limit(engine, tokens, sequences, seen, read, speed)
            result = dict(
                run=now, card=engine.device, shape=shape, format=arguments.format, test=name,
                tok_s=round(statistics.median(samples), 1), samples=[round(x, 1) for x in samples],
                share=round(statistics.median(samples) / best, 4), bandwidth_gb_s=round(read / 1e9, 1),
                int8_tops=round(speed / 1e12, 1),
            )  # fmt: skip
            print(f"{result['card']}  {shape:14} {arguments.format} {name:13} {result['tok_s']:>10} tok/s  "
                  f"{100 * result['share']:5.1f}% of the limit ({result['bandwidth_gb_s']} GB/s, "
                  f"{result['int8_tops']} TOPS)", flush=True)  # fmt: skip
            if arguments.output:
                with arguments.output.open("a") as file:
                    file.write(json.dumps(result) + "\n")
            if arguments.profile:
                wanted = 1 if name.startswith("prefill") else sequences
                tiles = -(-tokens // query_tile(engine.program)) if wanted < tokens else tokens
                profile(engine, Sizes(tokens, wanted, tiles, seen, engine._device.processors))
        engine.close()


if __name__ == "__main__":
    main()
