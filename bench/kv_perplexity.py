"""Perplexity with each cache of keys and values against that with f16: what rounding keys and values costs.

    python -m bench.kv_perplexity TEXT [MODEL …] [--tokens N] [--context N]

A text is cut into pieces of `context` tokens; each token of a piece but the first is predicted from those before it.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import lepton_edge
from lepton_edge.kernels.ops import CACHES

Losses = np.ndarray  # float64 [tokens], -log p in nats


def losses(model: lepton_edge.Model, ids: Sequence[int], context: int) -> Losses:
    """-log of the probability of each predicted token."""
    found = []
    for start in range(0, len(ids) - 1, context):
        piece = np.asarray(ids[start : start + context])
        if len(piece) < 2:
            break
        scores = model.logits(piece[:-1]).astype(np.float64)
        scores -= scores.max(axis=1, keepdims=True)
        found.append(np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(piece) - 1), piece[1:]])
    return np.concatenate(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("models", nargs="*", default=["stories"], help="folders, or names of embedded models")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--context", type=int, default=512)
    arguments = parser.parse_args()
    text = arguments.text.read_text(encoding="utf-8")
    print("| model | tokens | cache | perplexity | against f16 |\n| --- | ---: | --- | ---: | ---: |")
    for name in arguments.models:
        base = None
        for kv_dtype in CACHES:
            with lepton_edge.load(name, kv_dtype=kv_dtype) as model:
                ids = model.tokenizer.encode(text[: 8 * arguments.tokens])[: arguments.tokens]
                found = losses(model, ids, min(arguments.context, model.context))
            perplexity = float(np.exp(found.mean()))
            base = base or perplexity
            change = f"{100 * (perplexity / base - 1):+.4f}%"
            print(f"| {name} | {len(found)} | {kv_dtype} | {perplexity:.4f} | {change} |", flush=True)


if __name__ == "__main__":
    main()
