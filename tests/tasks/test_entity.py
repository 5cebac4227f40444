"""Entities are those of transformers' pipeline, by every strategy."""

from typing import Any

import pytest
from golden import tasks

from lepton_edge.errors import ContextLengthError, RequestError
from lepton_edge.tasks.entity import _without_overlaps

GOLDEN = tasks.answers()


def check(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    for mine, other in zip(found, expected, strict=True):
        assert {**mine, "score": 0} == {**other, "score": 0}
        assert mine["score"] == pytest.approx(other["score"], rel=2e-5)


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_entities_are_those_of_transformers(load: Any, strategy: str) -> None:
    found = load("tags").entities(tasks.TEXTS, strategy, batch_size=4)
    for mine, expected in zip(found, GOLDEN[f"entities {strategy}"], strict=True):
        check(mine, expected)


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_vocabularies_that_do_not_mark_parts_of_words(load: Any, strategy: str) -> None:
    found = load("tags_bytes").entities(tasks.SHORT_TEXTS, strategy)
    for mine, expected in zip(found, GOLDEN[f"entities of bytes {strategy}"], strict=True):
        check(mine, expected)


def test_the_strategies_differ() -> None:
    names = ["none", "simple", "first", "average", "max"]
    assert len({str(GOLDEN[f"entities {name}"]) for name in names}) == 5


def test_long_texts_by_windows(load: Any) -> None:
    model = load("tags")
    check(model.entities(tasks.CONTEXT, stride=6), GOLDEN["entities by windows"])
    with pytest.raises(ContextLengthError, match="or pass stride=N"):
        model.entities(tasks.CONTEXT)


def test_of_overlapping_entities_the_longer_stays_then_the_likelier() -> None:
    def entity(start: int, end: int, score: float) -> dict[str, Any]:
        return {"start": start, "end": end, "score": score}

    found = [entity(0, 4, 0.5), entity(2, 6, 0.4), entity(3, 9, 0.1), entity(9, 11, 0.2), entity(10, 12, 0.3)]
    assert _without_overlaps(found) == [found[2], found[4]]
    assert _without_overlaps(found[:2]) == [found[0]] and _without_overlaps([]) == []


def test_bad_rows(load: Any) -> None:
    model = load("tags")
    found = model.entities(["the cat", 3, "\ud800", ""], errors="return")
    assert found[0] == model.entities("the cat") and found[3] == []
    assert found[1] == {"error": "the text is 3; expected a string"} and "surrogate" in found[2]["error"]
    with pytest.raises(RequestError, match="expected one of none, simple"):
        model.entities("a", "best")
    with pytest.raises(RequestError, match=r"entities needs a classifier of tokens .*ForTokenClassification"):
        load("classes").entities("a")
