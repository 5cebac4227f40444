"""Weights of words are what the label's probability loses without them; the page shows them."""

from typing import Any

import numpy as np
import pytest
from golden import rnn, tasks

import lepton_edge
from lepton_edge.errors import ContextLengthError, RequestError
from lepton_edge.tasks.explanation import page, rollout

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


@pytest.mark.parametrize("pool", ["first", "last", "mean"])
def test_rollout_is_a_product_of_matrices(pool: str, load: Any) -> None:
    """As the paper defines it: of (A + I) / 2 of each layer, A the mean of its heads."""
    model = load("classes")
    found = model.tokenizer.encode_pair(TEXT, None)
    joint = np.eye(len(found))
    for heads in model.trace(TEXT, attentions=True).attentions:
        joint = (np.eye(len(found)) + heads.astype(float).mean(axis=0)) / 2 @ joint
    expected = {"first": joint[0], "last": joint[-1], "mean": joint.mean(axis=0)}[pool]
    np.testing.assert_allclose(rollout(model, found, pool), expected, atol=1e-6)


def test_rollout_weighs_words(load: Any) -> None:
    """By the sum over a word's tokens; the special ones have the rest."""
    model, text = load("classes"), "the quickness of microsoft"
    found = model.explain(text, method="rollout")
    shares = rollout(model, model.tokenizer.encode_pair(text, None), "first")
    best = model.classify(text)[0]
    assert (found["label"], found["score"]) == (best["label"], pytest.approx(best["score"], rel=1e-5))
    assert [item["word"] for item in found["words"]] == ["the", "quickness", "of", "microsoft"]
    tokens = [[1], [2, 3], [4], [5, 6]]
    assert [item["weight"] for item in found["words"]] == pytest.approx([shares[i].sum() for i in tokens])
    assert model.explain(text, "calm", "rollout")["words"] == found["words"]
    assert sum(item["weight"] for item in found["words"]) == pytest.approx(1 - shares[0] - shares[-1], rel=1e-5)
    assert page([found]).count("rgba(0,150,60") == 4


def test_rollout_needs_attention(load: Any, tmp_path: Any) -> None:
    with pytest.raises(RequestError, match="method is 'gradient'; expected 'leave-one-out' or 'rollout'"):
        load("classes").explain("a", method="gradient")
    folder = rnn.write_folder("lstm_classes", tmp_path / "model")
    tasks.write_tokenizer(folder)
    with lepton_edge.load(folder, threads=1) as model, pytest.raises(RequestError, match="attend to nothing"):
        model.explain("the cat", method="rollout")
