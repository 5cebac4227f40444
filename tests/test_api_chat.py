"""`Model.chat` on the embedded model with a small template."""

from pathlib import Path

import pytest
import stories_chat

import lepton_edge as lepton
from lepton_edge.errors import Cancelled, ContextLengthError, RequestError, TemplateError

pytest.importorskip("jinja2", reason="needs the extra 'chat'")
USER = {"role": "user", "content": "Once upon a time, there was a little dog."}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return stories_chat.write_folder(tmp_path_factory.mktemp("chat") / "stories")


@pytest.fixture(scope="module")
def model(folder):
    with lepton.load(folder, threads=1) as model:
        yield model


@pytest.fixture
def fed(model, monkeypatch) -> list[int]:
    """How many tokens each step of the engine was given."""
    counts: list[int] = []
    step, forward = model.engine.step, model.engine.forward
    monkeypatch.setattr(model.engine, "step", lambda ids, *rest: (counts.append(len(ids)), step(ids, *rest))[1])
    monkeypatch.setattr(model.engine, "forward", lambda ids, *rest: (counts.append(len(ids)), forward(ids, *rest))[1])
    return counts


def test_an_answer_is_what_the_model_says_to_the_rendered_text(model) -> None:
    ids = model.tokenizer.encode("<|story|>" + USER["content"] + " ", special=False)
    expected = model.generate(ids, temperature=0, max_tokens=400).lstrip()
    answer = model.chat([USER], temperature=0)
    assert (answer.text, answer.reasoning, answer.tool_calls, answer.finish_reason) == (expected, "", (), "stop")
    assert answer.message == {"role": "assistant", "content": expected}
    pieces = list(model.stream_chat([USER], temperature=0))
    assert lepton.Answer.of(pieces) == answer
    assert "".join(piece.text for piece in pieces) == expected


def test_the_second_turn_computes_new_tokens_only_and_says_the_same(model, fed) -> None:
    first = model.chat([USER], temperature=0, max_tokens=30)
    messages = [USER, first.message, {"role": "user", "content": "The dog was happy."}]
    fed.clear()
    second = list(model.stream_chat(messages, temperature=0, max_tokens=20))
    new = model.tokenizer.encode("<|end|>The dog was happy. ", special=False)
    # The last token of a cut answer has not been fed; every token but the last of this one is.
    assert sum(fed) == 1 + len(new) + len(second) - 1
    text = "<|story|>" + USER["content"] + " " + first.text + "<|end|>The dog was happy. "
    ids = model.tokenizer.encode(text, special=False)
    assert [piece.token for piece in second] == [
        piece.token for piece in model.stream(ids, temperature=0, max_tokens=20)
    ]  # computed anew


def test_a_changed_history_is_computed_from_where_it_changed(model, fed) -> None:
    long = {"role": "user", "content": USER["content"] * 4}
    first = model.chat([long], temperature=0, max_tokens=30)
    fed.clear()
    model.chat([long, first.message | {"content": "Then"}, USER], temperature=0, max_tokens=1)
    # The space before the answer is a token in the first prompt, and a part of " Then" in the second.
    new = model.tokenizer.encode(" Then<|end|>" + USER["content"] + " ", special=False)
    assert sum(fed) == len(new)


def test_defaults_seeds_and_limits(model) -> None:
    assert model.chat([USER], seed=1) == model.chat([USER], seed=1)
    cut = model.chat([USER], seed=1, max_tokens=3)
    assert cut.finish_reason == "length" and len(list(model.stream_chat([USER], seed=1, max_tokens=3))) == 3
    stopped = model.chat([USER], temperature=0, stop=" ")
    assert " " not in stopped.text and stopped.finish_reason == "stop"


def test_cancelling(model) -> None:
    pieces = model.stream_chat([USER])
    next(pieces)
    model.cancel()
    assert list(pieces)[-1].finish_reason == "cancelled"
    assert model.chat([USER], max_tokens=1).finish_reason == "length"


def test_cancel_raises_in_chat(model, monkeypatch) -> None:
    step = model.engine.step

    def cancelling(*arguments):
        model.cancel()
        return step(*arguments)

    monkeypatch.setattr(model.engine, "step", cancelling)
    with pytest.raises(Cancelled):
        model.chat([USER])


def test_wrong_conversations(model) -> None:
    for call in (model.chat, model.stream_chat):
        with pytest.raises(RequestError, match="messages is 'Hi'"):
            call("Hi")
        with pytest.raises(RequestError, match="temperature"):
            call([USER], temperature=-1)
        with pytest.raises(ContextLengthError, match=r"the conversation has .* tokens, but the context holds 512"):
            call([USER] * 100)


def test_a_model_without_a_template() -> None:
    with lepton.load("stories", threads=1) as model, pytest.raises(TemplateError, match="has no chat template"):
        model.chat([USER])
