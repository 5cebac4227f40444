"""Rows for the embedded classifiers: read, freed of duplicates, and divided once and for all.

A row is (label, text). The held-out part is drawn with a fixed seed; nothing is trained on or chosen by it. Choices
were made with the development part, which the final training then uses as well.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import make_risk_rows

__all__ = ["LANGUAGES", "Row", "Split", "fragment", "key", "language_id", "measured", "read_sms", "risk", "sms_spam",
           "split_rows"]  # fmt: skip

Row = tuple[str, str]  # label, text
SEED = 20
LANGUAGES = ("de", "en", "es", "fr")


class Split(NamedTuple):
    """The parts of a set; no text occurs in two of them."""

    train: list[Row]
    dev: list[Row]
    held: list[Row]


def key(text: str) -> str:
    """What two texts share that are the same but for case, spaces, punctuation and the values of numbers."""
    return re.sub(r"[\W_]+", " ", re.sub(r"\d+", "0", text.casefold())).strip()


def split_rows(rows: Iterable[Row], dev: float, held: float, seed: int = SEED) -> Split:
    """Divides rows with the same shares of each label in each part.

    Of rows with the same `key` the first is kept; where their labels differ, none is.
    """
    labels: dict[str, set[str]] = {}
    first: dict[str, Row] = {}
    for label, text in rows:
        labels.setdefault(key(text), set()).add(label)
        first.setdefault(key(text), (label, text))
    kept = [row for name, row in first.items() if len(labels[name]) == 1]
    parts = Split([], [], [])
    for label in sorted({label for label, _ in kept}):
        group = sorted(row for row in kept if row[0] == label)
        random.Random(f"{seed} {label}").shuffle(group)
        a, b = round(len(group) * held), round(len(group) * (held + dev))
        parts.held.extend(group[:a])
        parts.dev.extend(group[a:b])
        parts.train.extend(group[b:])
    return parts


def read_sms(path: Path) -> list[Row]:
    """The rows of SMSSpamCollection: label, tab, message."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        label, tab, text = line.partition("\t")
        if label not in ("ham", "spam") or not tab or not text.strip():
            raise ValueError(f"{path}:{number}: {line[:40]!r}; expected 'ham' or 'spam', a tab and a message")
        rows.append((label, text.strip()))
    return rows


def sms_spam(data: Path) -> Split:
    """SMS Spam Collection: a fifth held out, a tenth for choices."""
    return split_rows(read_sms(data / "labelled" / "sms_spam" / "SMSSpamCollection"), 0.1, 0.2)


def language_id(data: Path) -> Split:
    """FLORES: `dev` trains, but for every tenth sentence (in all languages at once); `test` is held out."""
    parts = Split([], [], [])
    for label in LANGUAGES:
        for name, first in (("dev", None), ("test", parts.held)):
            path = data / "labelled" / "flores" / f"flores-{name}.{label}"
            for i, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
                into = first if first is not None else parts.dev if i % 10 == 0 else parts.train
                into.append((label, line.strip()))
    known = {key(text) for _, text in parts.held}
    return Split(*([row for row in part if key(row[1]) not in known] for part in parts[:2]), parts.held)


def risk(data: Path) -> Split:
    """Rows that `make_risk_rows` writes; `data` is not used. Held-out rows have statements that training never sees."""
    return Split(*(make_risk_rows.rows(part) for part in ("train", "dev", "held")))


def measured(name: str, held: list[Row]) -> dict[str, list[Row]]:
    """The sets of rows that a model is measured on, by what its card calls them; the first is the held-out part."""
    if name == "language_id":
        starts = {f"their first {n} words": [(label, _start(text, n)) for label, text in held] for n in (5, 2)}
        return {"held-out sentences": held, **starts}
    if name == "financial_risk_detection":
        known = make_risk_rows.rows("known")
        return {"held-out rows, with a statement that is new": held, "other rows, all statements as in training": known}
    return {"held-out messages": held}


def _start(text: str, count: int) -> str:
    return " ".join(text.split()[:count])


def fragment(text: str, rng: random.Random) -> str:
    """Half of the time some neighbouring words of a text, sometimes in another case; else the text."""
    words = text.split()
    if rng.random() < 0.5 and len(words) > 2:
        count = min(rng.randint(2, 8), len(words))
        start = rng.randint(0, len(words) - count)
        text = " ".join(words[start : start + count])
    chance = rng.random()
    return text.lower() if chance < 0.15 else text.upper() if chance < 0.2 else text
