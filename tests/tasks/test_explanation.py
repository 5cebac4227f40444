"""Weights of words are what the label's probability loses without them; the page shows them."""

from typing import Any

import pytest
from golden import tasks

from lepton_edge.errors import ContextLengthError, RequestError
from lepton_edge.tasks.explanation import page

TEXT = "the cat  <sat> on microsoft & risk"


def test_weights_are_differences(load: Any) -> None:
    model = load("classes")
    found = model.explain(TEXT, batch_size=3)
    best = model.classify(TEXT)[0]
    assert (found["label"], found["score"]) == (best["label"], pytest.approx(best["score"], rel=1e-5))
    words = [item["word"] for item in found["words"]]
    assert words == ["the", "cat", "<", "sat", ">", "on", "microsoft", "&", "risk"]
    for item in found["words"]:
        assert TEXT[item["start"] : item["end"]] == item["word"]
        without = TEXT[: item["start"]] + TEXT[item["end"] :]
        scores = {row["label"]: row["score"] for row in model.classify(without, None)}
        assert item["weight"] == pytest.approx(best["score"] - scores[best["label"]], abs=1e-5)


def test_a_label_may_be_chosen(load: Any) -> None:
    model = load("classes")
    found = model.explain(tasks.TEXTS[0], "calm")
    assert found["label"] == "calm" and found["score"] < 0.5
    with pytest.raises(RequestError, match="label is 'sad'; expected one of calm, angry, glad"):
        model.explain(tasks.TEXTS[0], "sad")


def test_the_page(load: Any) -> None:
    text = page([load("classes").explain(TEXT)])
    assert text.startswith("<!DOCTYPE html>") and text.count("<span") == 9
    assert ">&lt;</span><span" in text and "<sat>" not in text
    assert "rgba(0,150,60,1.00)" in text or "rgba(210,40,40,1.00)" in text
    assert page([]).endswith("</body></html>\n")


def test_bad_requests(load: Any) -> None:
    model = load("classes")
    assert model.explain("")["words"] == []
    with pytest.raises(RequestError, match="text is 3"):
        model.explain(3)
    with pytest.raises(ContextLengthError):
        model.explain("cat " * 99)
    with pytest.raises(RequestError, match="explain needs a classifier"):
        load("tags").explain("a")
