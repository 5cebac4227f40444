"""Translated tokens per second of random models of real sizes, q8, in turns with CTranslate2's int8:

    python -m bench.translate --peer-python PYTHON

Sources of 24 random tokens, one at a time and 8 in a batch; texts of 48 tokens, greedy and with 4 beams.  Prints
medians of all rounds.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import lepton_edge
from lepton_edge.generate.pairs import beam_search
from lepton_edge.generate.rules import Rules

PEER = Path(__file__).parent / "peers" / "ct2_translate.py"
TOKENS, SOURCE = 48, 24


class Peer:
    """CTranslate2 in a process of its own, which writes the model's folder."""

    def __init__(self, python: str, kind: str, folder: str, threads: int) -> None:
        self._process = subprocess.Popen([python, str(PEER), kind, folder, str(threads)], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)  # fmt: skip
        self.version = self._read()["version"]

    def _read(self) -> dict:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        sys.exit(f"{PEER.name} ended: exit code {self._process.wait()}")

    def seconds(self, sources: list[list[int]], beams: int) -> float:
        """Of all texts."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"sources": sources, "beams": beams, "tokens": TOKENS}) + "\n")
        self._process.stdin.flush()
        return self._read()["seconds"]


class Ours:
    """This project."""

    def __init__(self, folder: str, threads: int) -> None:
        self._model = lepton_edge.load(folder, format="q8", threads=threads)
        config = json.loads((Path(folder) / "config.json").read_text())
        self.start, self.end = config["decoder_start_token_id"], config["eos_token_id"]

    def seconds(self, sources: list[list[int]], beams: int) -> float:
        """Of all texts."""
        rules = Rules(frozenset([self.end]), TOKENS, least=TOKENS)
        lists = [np.array(ids, np.int32) for ids in sources]
        begun = time.perf_counter()
        found = beam_search(self._model._shared, lists, [self.start], rules, beams)
        assert all(len(ids) == TOKENS for ids in found)
        return time.perf_counter() - begun


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--peer-python", required=True, help="an interpreter with ctranslate2, torch, transformers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    random = np.random.default_rng(1)
    for kind in ("marian", "t5"):
        with tempfile.TemporaryDirectory() as folder:
            peer = Peer(arguments.peer_python, kind, folder, arguments.threads)
            ours = Ours(folder, arguments.threads)
            for count in (1, 8):
                ids = random.integers(100, 30000, (count, SOURCE))
                ids[:, -1] = ours.end
                for beams in (1, 4):
                    ours.seconds(ids.tolist(), beams), peer.seconds(ids.tolist(), beams)  # warm
                    pairs = [(ours.seconds(ids.tolist(), beams), peer.seconds(ids.tolist(), beams))
                             for _ in range(arguments.rounds)]  # fmt: skip
                    rates = [statistics.median(count * TOKENS / pair[side] for pair in pairs) for side in (0, 1)]
                    ratio = statistics.median(b / a for a, b in pairs)
                    print(f"{kind:6} {count} sources, {beams} beams: {rates[0]:7.1f} / ctranslate2 {peer.version} int8 "
                          f"{rates[1]:7.1f} tokens/s  ratio {ratio:.2f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
