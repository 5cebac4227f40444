"""Answers are those of transformers' pipeline; short contexts and long ones."""

from typing import Any

import pytest
from golden import tasks

from lepton_edge.errors import ContextLengthError, RequestError

GOLDEN = tasks.answers()["answers"]


@pytest.mark.parametrize(("stride", "most", "empty"), [(8, 40, False), (5, 30, True)])
@pytest.mark.parametrize(("name", "questions"), [("answer", tasks.QUESTIONS), ("answer_bytes", ["who ?"])])
def test_answers_are_those_of_transformers(
    load: Any, name: str, questions: list[str], stride: int, most: int, empty: bool
) -> None:
    rows = [{"question": question, "context": tasks.CONTEXT} for question in questions]
    options = dict(top_k=3, stride=stride, max_length=most, empty=empty)
    for row, found in zip(rows, load(name).answer(rows, **options), strict=True):
        expected = GOLDEN[f"{row['question']} {most}"]
        assert [{**item, "score": 0} for item in found] == [{**item, "score": 0} for item in expected]
        assert [item["score"] for item in found] == pytest.approx([item["score"] for item in expected], rel=5e-5)
        assert all(row["context"][item["start"] : item["end"]] == item["answer"] for item in found)


@pytest.mark.parametrize(("name", "question"), [("answer", tasks.QUESTIONS[0]), ("answer_bytes", "who ?")])
def test_no_answer_is_as_likely_as_in_the_surest_piece(load: Any, name: str, question: str) -> None:
    found = load(name).answer(question, tasks.CONTEXT, 5000, stride=5, max_length=30, empty=True)
    nothing = [item for item in found if item["end"] == 0]
    assert [item["score"] for item in nothing] == pytest.approx([GOLDEN[f"{question} 30, nothing"]], rel=1e-4)
    assert nothing[0]["answer"] == "" and nothing[0]["start"] == 0


def test_one_question(load: Any) -> None:
    model = load("answer")
    found = model.answer(tasks.QUESTIONS[0], tasks.CONTEXT, stride=8)
    assert found["answer"] == GOLDEN[f"{tasks.QUESTIONS[0]} 40"][0]["answer"]
    assert list(model.answer(iter([{"question": tasks.QUESTIONS[0], "context": tasks.CONTEXT}]), stride=8)) == [found]


def test_an_answer_has_no_more_tokens_than_asked(load: Any) -> None:
    for item in load("answer").answer("who ?", tasks.CONTEXT, top_k=9, max_answer=1):
        assert " " not in item["answer"]


def test_whole_words(load: Any) -> None:
    """An answer that begins inside a word is given with the whole of it."""
    for item in load("answer").answer("who ?", "quickness microsoft bankers quickly", top_k=9):
        assert set(item["answer"].split()) <= {"quickness", "microsoft", "bankers", "quickly"}


def test_a_context_without_a_token_has_no_answer(load: Any) -> None:
    nothing = {"score": 0.0, "start": 0, "end": 0, "answer": ""}
    assert load("answer").answer("who ?", "\0\0") == nothing
    assert load("answer").answer("who ?", "\0\0", top_k=2) == []


def test_scores_are_probabilities_of_a_piece(load: Any) -> None:
    """All answers of one piece come to 1 at most; what every piece repeats, to the sum over pieces."""
    model, part, times = load("answer"), "the cat sat on the mat . the dog ran to london", 50
    alone = model.answer("who ?", part, 5000, max_answer=40)
    assert 0.1 < sum(item["score"] for item in alone) <= 1 + 1e-6
    length = len(model.tokenizer.encode_pair("who ?", part))
    found = model.answer("who ?", " ".join([part] * times), 5000, stride=0, max_length=length, max_answer=40)
    assert found[0]["score"] > 1
    assert [(item["answer"], item["start"]) for item in found] == [(item["answer"], item["start"]) for item in alone]
    assert [item["score"] for item in found] == pytest.approx([times * item["score"] for item in alone], rel=1e-5)


def test_bad_rows(load: Any) -> None:
    model = load("answer")
    rows = [{"question": "who ?", "context": "the cat"}, {"question": "", "context": "a"}, {"question": "a"}, "a",
            {"question": "who is it " * 12, "context": "the cat"}]  # fmt: skip
    found = model.answer(rows, errors="return")
    assert found[0] == model.answer("who ?", "the cat")
    assert found[1]["error"] == "the question is ''; expected a text that is not empty"
    assert "no question" in found[2]["error"] and "no question" in found[3]["error"]
    assert "nothing is left for the rest" in found[4]["error"]
    with pytest.raises(ContextLengthError, match="make stride smaller"):
        model.answer("who ?", tasks.CONTEXT, stride=39)
    with pytest.raises(RequestError, match="max_length is 41; expected a whole number, 1 to 40"):
        model.answer("who ?", "the cat", max_length=41)
    with pytest.raises(RequestError, match="answer needs a head that finds answers"):
        load("tags").answer("who ?", "the cat")
