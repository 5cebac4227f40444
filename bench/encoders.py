"""Sentences per second of embeddings, in turns with ONNX Runtime:

    python -m bench.encoders --peer-python PYTHON [FOLDER]

The texts of stsb-en test, sorted by length as sentence-transformers does, 32 in a batch, and then one short sentence
at a time; both sides tokenize, pool and normalize.  Prints medians of all rounds, and what they are of each other.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import lepton_edge
from bench.embeddings import STSB, read_pairs
from lepton_edge.embedded import model_folder

PEER = Path(__file__).parent / "peers" / "onnx_encoder.py"
SHORT = "A man is playing a guitar."
KINDS = (("f32", "f32"), ("q8", "int8"))  # our format, ONNX Runtime's


class Peer:
    """ONNX Runtime in a process of its own."""

    def __init__(self, python: str, folder: Path, kind: str, threads: int) -> None:
        self._process = subprocess.Popen(
            [python, str(PEER), str(folder), kind, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.version = self._read()["version"]

    def _read(self) -> dict:
        assert self._process.stdout is not None
        for line in self._process.stdout:  # exporting prints, too
            if line.startswith("{"):
                return json.loads(line)
        sys.exit(f"{PEER.name} ended: exit code {self._process.wait()}")

    def seconds(self, batches: list[list[str]]) -> tuple[float, list[float]]:
        """Of all batches; and the first embedding."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(batches) + "\n")
        self._process.stdin.flush()
        said = self._read()
        return said["seconds"], said["first"]


class Ours:
    """This project."""

    def __init__(self, folder: Path, kind: str, threads: int) -> None:
        self._model = lepton_edge.load(folder, format=kind, threads=threads)

    def seconds(self, batches: list[list[str]]) -> tuple[float, list[float]]:
        """Of all batches; and the first embedding."""
        start = time.perf_counter()
        found = [self._model.embed(batch, batch_size=len(batch)) for batch in batches]
        return time.perf_counter() - start, found[0][0].tolist()


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", default="minilm", help="a sentence-transformers folder")
    parser.add_argument("--peer-python", required=True, help="an interpreter with onnxruntime, onnx, transformers")
    parser.add_argument("--pairs", type=Path, default=STSB, help="stsb-en-test.csv")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    folder = model_folder(arguments.folder)
    first, second, _ = read_pairs(arguments.pairs)
    texts = sorted(first + second, key=len, reverse=True)
    tests = {
        "32 a batch": [texts[i : i + 32] for i in range(0, len(texts), 32)],
        "one short": [[SHORT]] * 200,
    }
    for ours, theirs in KINDS:
        sides = (Ours(folder, ours, arguments.threads),
                 Peer(arguments.peer_python, folder, theirs, arguments.threads))  # fmt: skip
        for name, batches in tests.items():
            count = sum(map(len, batches))
            found: tuple[list[float], list[float]] = ([], [])
            firsts = [side.seconds(batches[:3])[1] for side in sides]  # warm
            alike = float(np.dot(*firsts))
            for _ in range(arguments.rounds):
                for side, samples in zip(sides, found, strict=True):
                    samples.append(count / side.seconds(batches)[0])
            ratio = statistics.median(a / b for a, b in zip(*found, strict=True))
            rates = [f"{statistics.median(samples):8.1f} ({min(samples):.1f}-{max(samples):.1f})" for samples in found]
            print(f"{ours:3} / onnxruntime {sides[1].version} {theirs:4} {name:10} sentences/s {rates[0]} / {rates[1]}"
                  f"  ratio {ratio:.2f}  cosine {alike:.5f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
