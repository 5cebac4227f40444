"""Measure a packed classifier with lepton, and write its model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from classifier_data import Row

__all__ = ["Figures", "card", "measure", "table"]

CARDS = Path(__file__).resolve().parent / "cards"


class Figures(NamedTuple):
    """Counts int64 [labels, labels] of a set of rows: row the true label, column the likeliest one."""

    labels: tuple[str, ...]
    counts: np.ndarray

    @property
    def rows(self) -> int:
        return int(self.counts.sum())

    @property
    def accuracy(self) -> float:
        return float(np.trace(self.counts) / self.counts.sum())

    def recall(self, i: int) -> float:
        """The part of the rows of label i that got it."""
        return float(self.counts[i, i] / max(self.counts[i].sum(), 1))

    def precision(self, i: int) -> float:
        """The part of the rows that got label i and have it."""
        return float(self.counts[i, i] / max(self.counts[:, i].sum(), 1))


def measure(folder: Path, rows: list[Row]) -> Figures:
    """Runs a model folder with lepton over rows; texts beyond its context are cut."""
    import lepton_edge

    with lepton_edge.load(folder, threads=1) as model:
        labels = model.spec.head.labels
        counts = np.zeros((len(labels), len(labels)), np.int64)
        sequences = [model.tokenizer.encode(text) for _, text in rows]
        cut = [ids if len(ids) <= model.context else ids[: model.context - 1] + ids[-1:] for ids in sequences]
        for (label, _), scores in zip(rows, model.run(cut), strict=True):
            counts[labels.index(label), scores.argmax()] += 1
    return Figures(labels, counts)


def table(figures: dict[str, Figures]) -> str:
    """A Markdown table of accuracies and one of each label's recall and precision, for sets of rows by name."""
    lines = ["| rows | number | accuracy | errors |", "|---|---|---|---|"]
    for name, f in figures.items():
        lines.append(f"| {name} | {f.rows} | {f.accuracy:.4f} | {f.rows - int(np.trace(f.counts))} |")
    first = next(iter(figures.values()))
    lines += ["", "| label (first set) | rows | recall | precision |", "|---|---|---|---|"]
    for i, label in enumerate(first.labels):
        lines.append(f"| {label} | {first.counts[i].sum()} | {first.recall(i):.4f} | {first.precision(i):.4f} |")
    return "\n".join(lines)


SHAPE = """| | |
|---|---|
| architecture | BertForSequenceClassification: {layers} layers, hidden {hidden}, {heads} heads, ffn {feed_forward} |
| parameters | {parameters:,}; packed to q8, {nbytes:,} bytes |
| tokenizer | byte-level BPE of its own, {vocab} tokens; {reads} |
| context | 512 tokens; trained on texts of up to {length} tokens |
| training | {rows:,} rows, {epochs} epochs, {cpu:.0f} s on one core; seed {seed} |"""


def card(name: str, facts: dict[str, Any], figures: dict[str, Figures], unpacked: Figures, nbytes: int) -> str:
    """The text of README.md, from tools/cards/NAME.md.

    facts: of training.json; figures: of the packed model; unpacked: of the f32 one; nbytes: of weights and tokenizer.
    """
    first = next(iter(figures.values()))
    return (CARDS / f"{name}.md").read_text(encoding="utf-8").format(
        shape=SHAPE.format(nbytes=nbytes, **facts), table=table(figures), labels=", ".join(first.labels),
        unpacked=unpacked.accuracy,
    )  # fmt: skip
