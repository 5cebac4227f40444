"""How good packed embeddings are: `python -m bench.embeddings [FOLDER]` on the pairs of stsb-en.

Prints, for each weight format, Spearman's correlation with the people's scores, and the cosine to the embeddings in
f32.  --peer FILE writes, or with an interpreter that has sentence-transformers, `--reference` makes, what is compared:
an .npy file of sentence-transformers' embeddings of the same sentences.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

from lepton_edge.embedded import model_folder

STSB = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "labelled" / "stsb" / "stsb-en-test.csv"


def read_pairs(path: Path) -> tuple[list[str], list[str], np.ndarray]:
    """First sentences, second sentences, scores float64 [n]."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file) if len(row) == 3]
    return [row[0] for row in rows], [row[1] for row in rows], np.array([float(row[2]) for row in rows])


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """The correlation of the ranks; equal numbers share their mean rank."""
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of each row with its partner, in float64."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))


def main() -> None:
    """Prints the table, or writes the reference."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", default="minilm", help="a sentence-transformers folder")
    parser.add_argument("--pairs", type=Path, default=STSB, help="stsb-en-test.csv")
    parser.add_argument("--reference", type=Path, help="write sentence-transformers' embeddings to this .npy file")
    parser.add_argument("--peer", type=Path, help="compare with the embeddings in this .npy file")
    parser.add_argument("--formats", default="f32,q8,q4")
    arguments = parser.parse_args()
    first, second, scores = read_pairs(arguments.pairs)
    folder = model_folder(arguments.folder)
    if arguments.reference:
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(1)
        np.save(arguments.reference, SentenceTransformer(str(folder), device="cpu").encode(first + second))
        return
    import lepton_edge

    plain = np.load(arguments.peer) if arguments.peer else None
    for name in arguments.formats.split(","):
        with lepton_edge.load(folder, format=name) as model:
            found = model.embed(first + second)
        plain = found if plain is None else plain
        alike, near = spearman(cosines(*np.split(found, 2)), scores), cosines(found, plain)
        print(f"{name:4} Spearman {100 * alike:.3f}  cosine to the reference: mean {near.mean():.7f}  "
              f"least {near.min():.7f}")  # fmt: skip


if __name__ == "__main__":
    main()
