"""lepton.json: every kind of field, what is passed through, and every mistake in the file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tasks

from lepton_edge import LeptonModel
from lepton_edge.errors import ConfigError, ContextLengthError, RequestError
from lepton_edge.tasks.answer_fields import read_answers

LABELS = ["calm", "angry", "glad"]
SCORES = np.array([0.2, 0.65, 0.15], np.float32)


@pytest.fixture
def fields(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def get(scores: np.ndarray = SCORES, **values: Any) -> dict[str, Any]:
        write(tmp_path, values)
        return read_answers(tmp_path, LABELS).fill(scores)

    return get


def write(folder: Path, values: dict[str, Any], **others: Any) -> None:
    text = json.dumps({"version": 1, "task": "classify", "fields": values} | others)
    (folder / "lepton.json").write_text(text, encoding="utf-8")


def test_every_kind_of_field(fields: Any) -> None:
    found = fields(
        label={"value": "label"},
        top={"value": "probability", "digits": 3},
        risk={"value": "probability", "label": "angry", "scale": 100, "digits": 1},
        mean={"value": "expected", "weights": {"angry": 100, "glad": -20}, "digits": 2},
        level={"value": "level", "label": "angry", "thresholds": {"low": 0, "middle": 0.4, "high": 0.8}},
        alarm={"value": "flag", "label": "angry", "threshold": 0.6},
        quiet={"value": "flag", "label": "calm"},
        all={"value": "labels", "threshold": 0.18},
        shares={"value": "probabilities", "digits": 2},
        version={"value": "constant", "constant": {"name": "v1", "n": [1, None]}},
        inner={"value": "object", "fields": {"label": {"value": "label"}}},
    )
    assert found == {
        "label": "angry", "top": 0.65, "risk": 65.0, "mean": 62.0, "level": "middle", "alarm": True, "quiet": False,
        "all": ["angry", "calm"], "shares": {"calm": 0.2, "angry": 0.65, "glad": 0.15},
        "version": {"name": "v1", "n": [1, None]}, "inner": {"label": "angry"},
    }  # fmt: skip
    json.dumps(found)


@pytest.mark.parametrize(("score", "level"), [(0.0, "low"), (0.4, "middle"), (0.39, "low"), (0.8, "high")])
def test_a_threshold_counts_once_it_is_reached(fields: Any, score: float, level: str) -> None:
    steps = {"low": 0, "middle": 0.4, "high": 0.8}
    found = fields(np.array([0, score, 0]), x={"value": "level", "label": "angry", "thresholds": steps})
    assert found == {"x": level}


def test_labels_may_have_other_names(tmp_path: Path) -> None:
    write(tmp_path, {"x": {"value": "probability", "label": "furious"}, "y": {"value": "label"}},
          labels={"angry": "furious"})  # fmt: skip
    assert read_answers(tmp_path, LABELS).fill(SCORES) == {"x": pytest.approx(0.65), "y": "furious"}


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ({"version": 2, "task": "classify", "fields": {}}, "expected version 1"),
        ({"version": True, "task": "classify", "fields": {}}, "expected version 1"),
        ({"version": 1, "task": "embed", "fields": {}}, "the task 'classify'"),
        ({"version": 1, "fields": {}}, "lacks 'task'"),
        ({"x": 3, "version": 1, "task": "classify", "fields": {}}, "unknown key 'x'"),
        ({"fields": {}}, "at least one field"),
        ({"fields": {"a": {"value": "median"}}}, "fields.a is .* one of label, probability"),
        ({"fields": {"a": "label"}}, "fields.a is 'label'"),
        ({"fields": {"a": {"value": "label", "digits": 3}}}, "unknown key 'digits'"),
        ({"fields": {"a": {"value": "probability", "label": "sad"}}}, "model's labels: calm, angry, glad"),
        ({"fields": {"a": {"value": "probability", "digits": 11}}}, "fields.a.digits is 11"),
        ({"fields": {"a": {"value": "probability", "scale": "x"}}}, "fields.a.scale is 'x'"),
        ({"fields": {"a": {"value": "expected", "weights": {}}}}, "fields.a.weights is {}"),
        ({"fields": {"a": {"value": "level", "label": "calm", "thresholds": {"a": 0.1}}}}, "ascend from 0"),
        ({"fields": {"a": {"value": "level", "label": "calm", "thresholds": {"a": 0, "b": 0}}}}, "ascend from 0"),
        ({"fields": {"a": {"value": "flag", "label": "calm", "threshold": 2}}}, "a number from 0 to 1"),
        ({"fields": {"a": {"value": "flag"}}}, "lacks 'label'"),
        ({"fields": {"a": {"value": "constant"}}}, "lacks 'constant'"),
        ({"fields": {"a": {"value": "object", "fields": {}}}}, "at least one field"),
        ({"fields": {"a": {"value": "label"}}, "labels": {"calm": "glad"}}, "names that differ"),
        ({"fields": {"a": {"value": "label"}}, "labels": {"sad": "x"}}, "labels is 'sad'"),
        ({"fields": {"a": {"value": "label"}}, "pass": "all"}, "pass is 'all'"),
        ({"fields": {"a": {"value": "label"}}, "text": ""}, "text is ''"),
        ({"fields": {"a": {"value": "label"}}, "truncate": 1}, "truncate is 1"),
        ({"fields": {str(i): {"value": "label"} for i in range(257)}}, "more than 256 fields"),
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, file: dict[str, Any], message: str) -> None:
    made = file if "version" in file else {"version": 1, "task": "classify", **file}
    (tmp_path / "lepton.json").write_text(json.dumps(made))
    with pytest.raises(ConfigError, match=message):
        read_answers(tmp_path, LABELS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tasks.write_folder("classes", tmp_path_factory.mktemp("inference") / "classes")
    write(folder, {"risk_score": {"value": "probability", "label": "angry", "scale": 100, "digits": 1},
                   "risk_probability": {"value": "probability", "label": "angry", "digits": 4}})  # fmt: skip
    with LeptonModel.load_pretrained_model(folder, threads=1) as model:
        yield model


def test_one_list_and_iterator(model: LeptonModel) -> None:
    row = {"text": tasks.TEXTS[0], "customer_id": "123456"}
    one = model.inference(row)
    score = tasks.answers()["classes"][0][0]["score"]
    assert one == {"customer_id": "123456", "risk_score": round(100 * score, 1), "risk_probability": round(score, 4)}
    rows = [{"text": text, "n": i} for i, text in enumerate(tasks.TEXTS)]
    found = model.inference(rows, batch_size=2)
    assert [item["n"] for item in found] == list(range(6)) and found[0]["risk_score"] == one["risk_score"]
    online = model.inference(iter(rows))
    assert not isinstance(online, list)
    assert list(online) == found
    assert model.inference(tasks.TEXTS[0]) == {name: value for name, value in one.items() if name != "customer_id"}


def test_an_iterator_is_answered_row_by_row(model: LeptonModel) -> None:
    asked = []

    def rows() -> Any:
        for text in tasks.TEXTS:
            asked.append(text)
            yield {"text": text}

    online = model.inference(rows())
    next(online)
    assert len(asked) == 1


def test_bad_rows(model: LeptonModel) -> None:
    rows = [{"text": "the cat"}, {"id": 1}, {"text": 3, "id": 2}, 7, {"text": "cat " * 50, "id": 4}, {"text": "\ud800"}]
    found = model.inference(rows, errors="return")
    assert "risk_score" in found[0]
    assert found[1]["id"] == 1 and "no field 'text'" in found[1]["error"]
    assert found[2]["id"] == 2 and found[2]["error"] == "the row's 'text' is 3; expected a text"
    assert "the row is 7" in found[3]["error"]
    assert found[4]["id"] == 4 and "52 tokens" in found[4]["error"] and "surrogate" in found[5]["error"]
    with pytest.raises(RequestError, match="row 1: the row has no field 'text'"):
        model.inference(rows)
    with pytest.raises(ContextLengthError, match="row 4"):
        model.inference([*rows[:1], *rows[:1], *rows[:1], *rows[:1], rows[4]])


def test_without_the_file(load: Any) -> None:
    found = load("classes").inference({"text": tasks.TEXTS[0], "id": 5})
    assert found == {"id": 5, **load("classes").classify(tasks.TEXTS[0])[0]}
    with pytest.raises(RequestError, match="inference needs a classifier"):
        load("tags").inference("a")


def test_what_is_passed_through_and_pairs(tmp_path: Path) -> None:
    folder = tasks.write_folder("classes", tmp_path / "classes")
    write(folder, {"id": {"value": "constant", "constant": "ours"}, "p": {"value": "probability", "label": "calm"}},
          text="question", pair="answer", truncate=True, **{"pass": ["question", "id", "none"]})  # fmt: skip
    with LeptonModel.load_pretrained_model(folder, threads=1) as model:
        found = model.inference({"question": "the cat", "answer": "the dog " * 40, "id": 1, "x": 2})
        assert list(found) == ["question", "id", "p"] and found["id"] == "ours"
        labels = model.classify({"text": "the cat", "text_pair": "the dog " * 40}, None, truncate=True)
        assert found["p"] == next(item["score"] for item in labels if item["label"] == "calm")
