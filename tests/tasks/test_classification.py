"""Labels are those of transformers' pipelines, zero-shot ones too; ranks those of CrossEncoder."""

from typing import Any

import pytest
from golden import tasks

from lepton_edge.errors import ContextLengthError, RequestError, UnsupportedModelError

GOLDEN = tasks.answers()
LONG = "the cat sat on " * 30


def check(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [item["label"] for item in found] == [item["label"] for item in expected]
    assert [item["score"] for item in found] == pytest.approx([item["score"] for item in expected], rel=2e-5)


@pytest.mark.parametrize("name", ["classes", "classes_several", "classes_regression", "rank"])
def test_labels_are_those_of_transformers(load: Any, name: str) -> None:
    found = load(name).classify(tasks.TEXTS, top_k=2, batch_size=4)
    for mine, expected in zip(found, GOLDEN[name], strict=True):
        check(mine, expected)


def test_pairs(load: Any) -> None:
    model = load("classes")
    rows = [("the cat", text) for text in tasks.TEXTS]
    for mine, expected in zip(model.classify(rows, top_k=None), GOLDEN["pairs"], strict=True):
        check(mine, expected)
    check(model.classify({"text": "the cat", "text_pair": tasks.TEXTS[1]}, top_k=3), GOLDEN["pairs"][1])


def test_one_list_and_iterator(load: Any) -> None:
    model = load("classes")
    one = model.classify(tasks.TEXTS[0])
    assert len(one) == 1 and one[0]["label"] == GOLDEN["classes"][0][0]["label"]
    online = model.classify(iter(tasks.TEXTS), batch_size=2)
    assert not isinstance(online, list)
    assert [row[0]["label"] for row in online] == [row[0]["label"] for row in GOLDEN["classes"]]


def test_an_iterator_is_read_no_further_than_a_batch(load: Any) -> None:
    read = []

    def rows() -> Any:
        for text in tasks.TEXTS:
            read.append(text)
            yield text

    online = load("classes").classify(rows(), batch_size=2)
    assert read == []
    next(online)
    assert len(read) == 2


@pytest.mark.parametrize(("name", "several"), [("zero-shot", False), ("zero-shot, several", True)])
def test_zero_shot(load: Any, name: str, several: bool) -> None:
    texts = [*tasks.TEXTS, tasks.CONTEXT]
    found = load("nli").classify(
        texts, top_k=None, labels=tasks.HYPOTHESES, hypothesis="this is {} .", several=several, batch_size=3
    )
    for mine, expected in zip(found, GOLDEN[name], strict=True):
        check(mine, [{"label": label, "score": score} for label, score in
                     zip(expected["labels"], expected["scores"], strict=True)])  # fmt: skip


def test_ranks_are_those_of_a_cross_encoder(load: Any) -> None:
    documents = [*tasks.TEXTS, tasks.CONTEXT]
    found = load("rank").rank("who is in london ?", iter(documents), batch_size=2)
    expected = GOLDEN["ranking"]
    assert [item["corpus_id"] for item in found] == [item["corpus_id"] for item in expected]
    assert [item["score"] for item in found] == pytest.approx([item["score"] for item in expected], rel=2e-5)
    assert [item["text"] for item in found] == [documents[item["corpus_id"]] for item in expected]
    assert load("rank").rank("who is in london ?", documents, top_k=2) == found[:2]


def test_the_activation_of_a_cross_encoder(load: Any) -> None:
    plain = load("rank", sentence_transformers={"activation_fn": "torch.nn.modules.linear.Identity"})
    best = plain.rank("who is in london ?", tasks.TEXTS)[0]
    score = next(item for item in GOLDEN["ranking"] if item["corpus_id"] == best["corpus_id"])["score"]
    from math import exp

    assert 1 / (1 + exp(-best["score"])) == pytest.approx(score, rel=1e-5)
    with pytest.raises(UnsupportedModelError, match=r"activation 'my\.Thing'"):
        load("rank", sbert_ce_default_activation_function="my.Thing").rank("a", ["b"])


def test_long_texts(load: Any) -> None:
    model = load("classes")
    with pytest.raises(ContextLengthError, match="row 1: the text has 122 tokens, but the context holds 40; shorten"):
        model.classify(["the cat", LONG])
    check(model.classify(LONG, truncate=True), model.classify("the cat sat on " * 9 + "the cat"))
    million = model.classify(["the cat", "cat " * 250_000], errors="return")
    assert million[0] == model.classify("the cat") and "250002 tokens" in million[1]["error"]


def test_bad_rows_do_not_lose_the_others(load: Any) -> None:
    model = load("classes")
    found = model.classify(["the cat", "\udcff", None, "", ("a", 3)], errors="return")
    assert found[0] == model.classify("the cat") and found[3] == model.classify("")
    assert found[1] == {"error": "text has a lone surrogate at character 0; expected text that UTF-8 can express"}
    assert found[2]["error"].startswith("None is no text") and found[4]["error"].startswith("('a', 3) is no text")
    assert model.classify(7, errors="return")["error"].startswith("7 is no text")
    ranked = load("rank").rank("who", ["the cat", "\udcff", "the dog"], errors="return")
    assert [item["corpus_id"] for item in ranked[2:]] == [1] and "lone surrogate" in ranked[2]["error"]


@pytest.mark.parametrize(
    ("name", "call", "message"),
    [
        ("tags", lambda m: m.classify("a"), "classify needs a classifier of whole texts .*has a classifier of tok"),
        ("embed", lambda m: m.classify("a"), "embed has none; load another"),
        ("classes", lambda m: m.classify("a", labels=["b"]), "begins with 'entail'; classes has calm, angry, glad"),
        ("nli", lambda m: m.classify("a", labels=[]), "labels is \\[\\]"),
        ("nli", lambda m: m.classify("a", labels=["b"], hypothesis="no place"), "one {} for the label"),
        ("classes", lambda m: m.classify("a", top_k=0), "top_k is 0"),
        ("classes", lambda m: m.classify("a", errors="ignore"), "errors is 'ignore'"),
        ("classes", lambda m: m.classify("a", truncate=1), "truncate is 1"),
        ("classes", lambda m: m.rank("a", ["b"]), "rank needs a cross-encoder, a classifier with one output"),
        ("rank", lambda m: m.rank(3, ["b"]), "query is 3"),
        ("rank", lambda m: m.rank("a", "b"), "expected several documents"),
        ("rank", lambda m: m.rank("a", None), "expected several documents"),
    ],
)
def test_wrong_requests(load: Any, name: str, call: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        call(load(name))
