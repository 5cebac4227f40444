"""Masked words are those of transformers' pipeline."""

from typing import Any

import pytest
from golden import tasks

from lepton_edge.errors import RequestError

GOLDEN = tasks.answers()


def check(found: Any, expected: Any) -> None:
    if isinstance(expected[0], list):
        for mine, other in zip(found, expected, strict=True):
            check(mine, other)
        return
    assert [{**item, "score": 0} for item in found] == [{**item, "score": 0} for item in expected]
    assert [item["score"] for item in found] == pytest.approx([item["score"] for item in expected], rel=5e-5)


def test_words_are_those_of_transformers(load: Any) -> None:
    model = load("fill")
    for mine, expected in zip(model.fill(tasks.MASKED, top_k=3), GOLDEN["fill"], strict=True):
        check(mine, expected)
    check(model.fill(tasks.MASKED[0], targets=["sat", "ran"]), GOLDEN["fill targets"])


def test_bad_rows(load: Any) -> None:
    model = load("fill")
    found = model.fill([tasks.MASKED[0], "the cat", 3, "[MASK] " * 50], errors="return")
    assert found[0] == model.fill(tasks.MASKED[0])
    assert found[1]["error"] == "the text has no [MASK]; expected one in each place"
    assert found[2]["error"] == "the text is 3; expected a string" and "52 tokens" in found[3]["error"]
    with pytest.raises(RequestError, match="targets has 'zebra', which is no token"):
        model.fill(tasks.MASKED[0], targets=["zebra"])
    with pytest.raises(RequestError, match="fill needs a head for masked tokens"):
        load("embed").fill("[MASK]")
