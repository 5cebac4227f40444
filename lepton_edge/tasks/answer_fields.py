"""lepton.json: which fields a model's answer has, and how each follows from the probabilities of its labels.

docs/tasks.md describes the file.  Everything is checked when it is read: keys, types, labels, thresholds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_edge.checkpoint.strict_json import brief, read_object
from lepton_edge.errors import ConfigError

__all__ = ["FILE", "Answers", "read_answers"]

FILE = "lepton.json"
MAX_FIELDS = 256
MAX_DIGITS = 10

Scores = NDArray[np.float32]
Value = Callable[[Scores], Any]  # a field's value, of the probabilities of all labels


@dataclass(frozen=True)
class Answers:
    """How rows are read and answered.

    text, pair: the fields of a row that hold its texts.  truncate: long texts are cut.  passed: fields of a row that go
    into the answer; None for all but the texts.  fields: those of an answer.
    """

    text: str
    pair: str | None
    truncate: bool
    passed: tuple[str, ...] | None
    fields: Mapping[str, Value]

    def pass_on(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a row that go into its answer."""
        if self.passed is not None:
            return {name: row[name] for name in self.passed if name in row}
        return {name: value for name, value in row.items() if name not in (self.text, self.pair)}

    def fill(self, scores: Scores) -> dict[str, Any]:
        """The fields of an answer, of the probabilities float32 [labels]."""
        return {name: value(scores) for name, value in self.fields.items()}


def read_answers(folder: Path, labels: Sequence[str]) -> Answers:
    """lepton.json of a model folder; without one, the fields are the likeliest `label` and its `score`.

    labels: of the model's outputs, as config.json names them.  Raises ConfigError for all that is not as it should be.
    """
    path = folder / FILE
    if not os.path.lexists(path):
        reader = _Reader(path, labels)
        return Answers("text", None, False, None, {"label": reader.label({}, ""), "score": reader.probability({}, "")})
    config = read_object(path, ConfigError)
    reader = _Reader(path, labels)
    reader.keys(config, "", "version", "task", "fields", text="", pair="", truncate="", labels="", **{"pass": ""})
    if config["version"] != 1 or isinstance(config["version"], bool) or config["task"] != "classify":
        raise ConfigError(f"{path}: expected version 1 and the task 'classify'; correct it, or update lepton_edge")
    reader.rename(config.get("labels", {}))
    passed = config.get("pass", True)
    if not isinstance(passed, bool) and not _texts(passed):
        raise reader.error("pass", passed, "true, false or a list of names")
    pair = None if config.get("pair") is None else reader.text(config, "pair", None)
    return Answers(
        reader.text(config, "text", "text"), pair, reader.flag(config, "truncate"),
        None if passed is True else tuple(passed or ()), reader.fields(config["fields"], "fields"),
    )  # fmt: skip


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


class _Reader:
    """Turns descriptions of fields into functions."""

    def __init__(self, path: Path, labels: Sequence[str]) -> None:
        self._path = path
        self._labels = list(labels)
        self._count = 0
        self._kinds: dict[str, Callable[[dict[str, Any], str], Value]] = {
            "label": self.label, "probability": self.probability, "expected": self.expected, "level": self.level,
            "flag": self.reached, "labels": self.all_reached, "probabilities": self.probabilities,
            "constant": self.constant, "object": self.nested,
        }  # fmt: skip

    def error(self, where: str, value: Any, expected: str) -> ConfigError:
        """About one value."""
        return ConfigError(f"{self._path}: {where} is {brief(value)}; expected {expected}; correct the file")

    def keys(self, values: Any, where: str, *needed: str, **optional: str) -> None:
        """Refuses anything but an object with these keys."""
        name = where or "the file"
        if not isinstance(values, dict):
            raise self.error(name, values, "an object")
        missing = [key for key in needed if key not in values]
        unknown = [key for key in values if key not in needed and key not in optional]
        if missing or unknown:
            wrong = f"lacks {brief(missing[0])}" if missing else f"has the unknown key {brief(unknown[0])}"
            raise ConfigError(
                f"{self._path}: {name} {wrong}; expected {', '.join(needed)} and perhaps {', '.join(optional) or '-'}"
            )

    def rename(self, names: Any) -> None:
        """Other names for labels."""
        if not isinstance(names, dict) or not all(isinstance(name, str) and name for name in names.values()):
            raise self.error("labels", names, "an object of labels and their new names")
        for label in names:
            self.index(label, "labels")
        self._labels = [names.get(label, label) for label in self._labels]
        if len(set(self._labels)) != len(self._labels):
            raise self.error("labels", names, "names that differ")

    def index(self, label: Any, where: str) -> int:
        """The number of a label."""
        if not isinstance(label, str) or label not in self._labels:
            raise self.error(where, label, f"one of the model's labels: {', '.join(self._labels[:20])}")
        return self._labels.index(label)

    def text(self, values: Mapping[str, Any], key: str, default: str | None) -> str:
        """A string that is not empty."""
        value = values.get(key, default)
        if not isinstance(value, str) or not value:
            raise self.error(key, value, "a name")
        return value

    def flag(self, values: Mapping[str, Any], key: str) -> bool:
        """True or false; false by default."""
        value = values.get(key, False)
        if not isinstance(value, bool):
            raise self.error(key, value, "true or false")
        return value

    def number(self, value: Any, where: str, low: float = -1e12, high: float = 1e12) -> float:
        """A finite number in low..high."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self.error(where, value, f"a number from {low:g} to {high:g}")
        return float(value)

    def digits(self, values: Mapping[str, Any], where: str) -> Callable[[float], float]:
        """What rounds a number as `digits` says."""
        if "digits" not in values:
            return float
        digits = values["digits"]
        if isinstance(digits, bool) or not isinstance(digits, int) or not 0 <= digits <= MAX_DIGITS:
            raise self.error(f"{where}.digits", digits, f"a whole number from 0 to {MAX_DIGITS}")
        return lambda number: round(float(number), digits)

    def fields(self, values: Any, where: str) -> dict[str, Value]:
        """The fields of an object, by name."""
        if not isinstance(values, dict) or not values:
            raise self.error(where, values, "an object with at least one field")
        self._count += len(values)
        if self._count > MAX_FIELDS:
            raise ConfigError(f"{self._path}: has more than {MAX_FIELDS} fields; expected fewer")
        found = {}
        for name, field in values.items():
            place = f"{where}.{name}"
            kind = field.get("value") if isinstance(field, dict) else None
            if not isinstance(kind, str) or kind not in self._kinds:
                raise self.error(place, field, f'an object whose "value" is one of {", ".join(self._kinds)}')
            found[name] = self._kinds[kind](field, place)
        return found

    # -- kinds of values ---------------------------------------------------------------------------------------------

    def label(self, field: dict[str, Any], where: str) -> Value:
        """The likeliest label."""
        self.keys(field, where, value="")
        names = self._labels
        return lambda scores: names[int(scores.argmax())]

    def probability(self, field: dict[str, Any], where: str) -> Value:
        """Of one label, or of the likeliest one."""
        self.keys(field, where, value="", label="", scale="", digits="")
        scale, rounded = self.number(field.get("scale", 1), f"{where}.scale"), self.digits(field, where)
        if "label" not in field:
            return lambda scores: rounded(float(scores.max()) * scale)
        i = self.index(field["label"], f"{where}.label")
        return lambda scores: rounded(float(scores[i]) * scale)

    def expected(self, field: dict[str, Any], where: str) -> Value:
        """The sum of probability times weight."""
        self.keys(field, where, "value", "weights", digits="")
        if not isinstance(field["weights"], dict) or not field["weights"]:
            raise self.error(f"{where}.weights", field["weights"], "an object of labels and numbers")
        weights, rounded = np.zeros(len(self._labels)), self.digits(field, where)
        for label, weight in field["weights"].items():
            weights[self.index(label, f"{where}.weights")] = self.number(weight, f"{where}.weights.{label}")
        return lambda scores: rounded(float(scores.astype(np.float64) @ weights))

    def level(self, field: dict[str, Any], where: str) -> Value:
        """The name of the highest threshold that a label's probability reaches."""
        self.keys(field, where, "value", "label", "thresholds")
        i, steps = self.index(field["label"], f"{where}.label"), field["thresholds"]
        if not isinstance(steps, dict) or not steps:
            raise self.error(f"{where}.thresholds", steps, "an object of names and thresholds")
        names, edges = list(steps), [self.number(edge, f"{where}.thresholds", 0, 1) for edge in steps.values()]
        if edges[0] != 0 or any(low >= high for low, high in pairwise(edges)):
            raise self.error(f"{where}.thresholds", steps, "thresholds that ascend from 0")
        return lambda scores: names[max(0, int(np.searchsorted(edges, float(scores[i]), side="right")) - 1)]

    def reached(self, field: dict[str, Any], where: str) -> Value:
        """Whether a label's probability reaches a threshold."""
        self.keys(field, where, "value", "label", threshold="")
        i = self.index(field["label"], f"{where}.label")
        threshold = self.number(field.get("threshold", 0.5), f"{where}.threshold", 0, 1)
        return lambda scores: float(scores[i]) >= threshold

    def all_reached(self, field: dict[str, Any], where: str) -> Value:
        """All labels whose probability reaches a threshold, the likeliest first."""
        self.keys(field, where, value="", threshold="")
        threshold, names = self.number(field.get("threshold", 0.5), f"{where}.threshold", 0, 1), self._labels
        return lambda scores: [
            names[i] for i in np.argsort(-scores, kind="stable").tolist() if scores[i] >= threshold
        ]  # fmt: skip

    def probabilities(self, field: dict[str, Any], where: str) -> Value:
        """Of all labels."""
        self.keys(field, where, value="", digits="")
        rounded, names = self.digits(field, where), self._labels
        return lambda scores: {name: rounded(score) for name, score in zip(names, scores.tolist(), strict=True)}

    def constant(self, field: dict[str, Any], where: str) -> Value:
        """The same in each answer."""
        self.keys(field, where, "value", "constant")
        kept = json.dumps(field["constant"])
        return lambda scores: json.loads(kept)  # a copy: an answer is the caller's

    def nested(self, field: dict[str, Any], where: str) -> Value:
        """An object with fields of its own."""
        self.keys(field, where, "value", "fields")
        inner = self.fields(field["fields"], where)
        return lambda scores: {name: value(scores) for name, value in inner.items()}
