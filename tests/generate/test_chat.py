"""Conversations on an engine that says what the test wants and counts the tokens it is fed."""

import json
from pathlib import Path

import numpy as np
import pytest
import small_tokenizers
import tokenizers
from fake_engine import FakeEngine
from tokenizers import AddedToken

from lepton_edge.errors import RequestError, TemplateError
from lepton_edge.generate.chat import Answer, ChatPrompts, ToolCall, answer
from lepton_edge.generate.params import SamplingParams
from lepton_edge.generate.shared import SharedEngine
from lepton_edge.text import Tokenizer

pytest.importorskip("jinja2", reason="needs the extra 'chat'")

# As Qwen3's: reasoning is kept in the last turn only.
TEMPLATE = """
{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\n' }}
{%- if m.reasoning_content and loop.last %}{{ '<think>\n' + m.reasoning_content + '\n</think>\n\n' }}{% endif %}
{{- m.content }}
{%- for call in m.tool_calls or [] %}{{ '\n<tool_call>' + call.function | tojson + '</tool_call>' }}{% endfor %}
{{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""
SPECIAL = ("<|im_start|>", "<|im_end|>", "<|other|>")
PLAIN = ("<think>", "</think>", "<tool_call>", "</tool_call>")


@pytest.fixture
def folder(tmp_path) -> Path:
    small_tokenizers.byte_level(tmp_path)
    backend = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.add_special_tokens(list(SPECIAL))
    backend.add_tokens([AddedToken(token, normalized=False) for token in PLAIN])
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text('{"eos_token_id": 1}')
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    return tmp_path


class Scripted(FakeEngine):
    """Says the ids of `says`, one for each token asked for, whatever it is fed."""

    def __init__(self, vocab: int, **options) -> None:
        super().__init__(np.zeros((vocab, vocab)), **options)
        self.says: list[int] = []

    def _forward(self, tokens, slots, positions, wanted):
        logits = super()._forward(tokens, slots, positions, wanted)
        for row in logits:
            row[self.says.pop(0)] = 20
        return logits


class Chat:
    """A conversation of one model."""

    def __init__(self, folder: Path, **options) -> None:
        self.tokenizer = Tokenizer.load(folder)
        self.engine = Scripted(self.tokenizer.vocab_size, context=4096, max_batch=64, **options)
        self.shared = SharedEngine(self.engine)
        self.prompts = ChatPrompts(folder, self.tokenizer)

    def pieces(self, messages, says: str, tools=None, **params):
        """The pieces of the answer; `says` is what the model writes."""
        self.engine.says = self.tokenizer.encode(says, special=False)
        self.engine.batches.clear()
        self.prompt = self.prompts.make(messages, tools)
        ids = np.array(self.prompt.ids, np.int32)
        sequence = self.shared.begin(keep=True)
        return answer(sequence, self.tokenizer, self.prompt, ids, SamplingParams(**{"max_tokens": 400} | params))

    def say(self, messages, says: str, tools=None, **params) -> Answer:
        return Answer.of(self.pieces(messages, says, tools, **params))

    def size(self, text: str) -> int:
        """How many tokens a text has."""
        return len(self.tokenizer.encode(text, special=False))

    @property
    def fed(self) -> int:
        """Tokens that the last answer cost."""
        return sum(self.engine.batches)


USER = {"role": "user", "content": "Hello you."}


def test_the_turn_ends_where_the_template_says(folder) -> None:
    chat = Chat(folder)
    made = chat.say([USER], "Hi<|other|>!<|im_end|>never said")
    assert made == Answer("Hi!", "", (), "stop")
    assert chat.prompt.text == "<|im_start|>user\nHello you.<|im_end|>\n<|im_start|>assistant\n"
    assert chat.prompt.ids == chat.tokenizer.encode(chat.prompt.text, special=False) != chat.tokenizer.encode("")
    assert chat.prompt.ids[0] == chat.tokenizer.added_id("<|im_start|>"), "the template writes special tokens, or not"
    assert chat.tokenizer.eos_ids == {1}
    assert chat.prompt.ends == {chat.tokenizer.added_id("<|im_end|>")}


def test_only_new_tokens_are_computed(folder) -> None:
    chat = Chat(folder)
    messages = [USER]
    first = chat.say(messages, "Hi there.<|im_end|>")
    answered = chat.size("Hi there.")
    assert chat.fed == len(chat.prompt.ids) + answered
    messages += [first.message, {"role": "user", "content": "And now?"}]
    before = len(chat.prompt.ids) + answered
    second = chat.say(messages, "No.<|im_end|>")
    new = chat.size("<|im_end|>\n<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n")
    assert len(chat.prompt.ids) == before + new
    assert chat.fed == new + chat.size("No.")
    assert second.text == "No."
    assert len(chat.engine.slots) == 1
    # The same answer again: one token to ask, and those of the answer.
    chat.say(messages, "No.<|im_end|>")
    assert chat.fed == 1 + chat.size("No.")


def test_history_that_the_template_rewrites_is_kept_up_to_there(folder) -> None:
    chat = Chat(folder)
    first = chat.say([USER], "<think>\nHm, hello.\n</think>\n\nHi.<|im_end|>")
    assert (first.text, first.reasoning) == ("Hi.", "Hm, hello.")
    unchanged = len(chat.prompt.ids)
    second = chat.say([USER, first.message, USER], "Again.<|im_end|>")
    assert "<think>" not in chat.prompt.text
    assert chat.fed == len(chat.prompt.ids) - unchanged + chat.size("Again.")
    assert second.text == "Again."


def test_a_model_that_cannot_go_back_is_fed_all_of_a_rewritten_history(folder) -> None:
    chat = Chat(folder)
    chat.engine.can_truncate = False
    first = chat.say([USER], "<think>\nHm.\n</think>\n\nHi.<|im_end|>")
    second = chat.say([USER, first.message, USER], "Yes.<|im_end|>")
    assert chat.fed == len(chat.prompt.ids) + 4
    chat.say([USER, first.message, USER, second.message, USER], "Yes.<|im_end|>")
    assert chat.fed < len(chat.prompt.ids) / 2, "nothing was rewritten this time"


def test_tool_calls_and_their_finish_reason(folder) -> None:
    def add(a: int):
        """Adds.

        Args:
            a: one
        """

    chat = Chat(folder)
    says = 'I add.\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>'
    pieces = list(chat.pieces([USER], says, [add]))
    assert [piece.token for piece in pieces] == chat.tokenizer.encode(says, special=False)
    assert all("<" not in piece.text and "{" not in piece.text for piece in pieces)
    assert all(piece.logprob is not None and piece.logprob <= 0 for piece in pieces)
    made = Answer.of(pieces)
    assert made == Answer("I add.", "", (ToolCall("add", {"a": 1}),), "tool_calls")
    assert made.message == {
        "role": "assistant",
        "content": "I add.",
        "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}],
    }
    again = chat.say([USER, made.message, {"role": "tool", "content": "2"}], "2<|im_end|>", [add])
    assert again == Answer("2", "", (), "stop")
    assert chat.say([USER], says).text == says.removesuffix("<|im_end|>"), "without tools it is text"


def test_what_is_cut_is_said(folder) -> None:
    chat = Chat(folder)
    made = chat.say([USER], "<think>\nSo long", max_tokens=5)
    assert (made.text, made.finish_reason) == ("", "length") and "So".startswith(made.reasoning)
    assert chat.say([USER], "one two", stop=" t", max_tokens=7) == Answer("one", "", (), "stop")


def test_cancelled_keeps_what_there_is(folder) -> None:
    chat = Chat(folder)
    pieces = chat.pieces([USER], "Hi there.<|im_end|>")
    some = [next(pieces), next(pieces)]
    chat.shared.cancel()
    made = Answer.of([*some, *pieces])
    assert made == Answer("Hi", "", (), "cancelled")
    chat.say([USER, made.message, USER], "Ok<|im_end|>")
    # "H" was fed and "i" not yet.
    new = chat.size("i<|im_end|>\n<|im_start|>user\nHello you.<|im_end|>\n<|im_start|>assistant\n")
    assert chat.fed == new + 2


def test_a_stream_that_is_left_keeps_its_tokens(folder) -> None:
    chat = Chat(folder)
    pieces = chat.pieces([USER], "Hi there.<|im_end|>")
    next(pieces)
    pieces.close()
    chat.say([USER], "Hi<|im_end|>")
    assert chat.fed == 1 + 2


def test_end_tokens_of_the_format_count_without_a_generation_config(folder) -> None:
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.add_special_tokens(["<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<|return|>", "<|call|>"])
    backend.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}<|start|>{{ m.role }}<|channel|>final<|message|>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
    )
    chat = Chat(folder)
    says = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hi.<|return|>"
    assert chat.say([USER], says) == Answer("Hi.", "Hm.", (), "stop")
    call = "<|channel|>commentary to=functions.f<|message|>{}<|call|>"
    assert chat.say([USER], call, [{"name": "f"}]) == Answer("", "", (ToolCall("f", {}),), "tool_calls")


def test_the_prompt_may_begin_the_reasoning(folder) -> None:
    (folder / "chat_template.jinja").write_text(
        "{{ messages[-1].content }}\n{% if add_generation_prompt %}{{ '<think>\n' if thinks else '<think></think>' }}"
        "{% endif %}"
    )
    chat = Chat(folder)
    thinking = chat.prompts.make([USER], values={"thinks": True})
    assert thinking.text == "Hello you.\n<think>\n"
    parts = [thinking.parser.push("Hm.</think>\n\nHi."), thinking.parser.flush()]
    assert ("".join(p.text for p in parts), "".join(p.reasoning for p in parts)) == ("Hi.", "Hm.")
    assert chat.say([USER], "Hi.</s>") == Answer("Hi.", "", (), "stop")


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"messages": []}, RequestError, "messages is empty"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, RequestError, "the last message is the assistant's"),
        ({"messages": [USER], "template": "other"}, RequestError, "'other'"),
        ({"messages": [USER], "template": 5}, RequestError, "template is 5"),
        ({"messages": [USER], "values": [1]}, RequestError, "template_values is"),
        ({"messages": [USER], "values": {"x": object()}}, RequestError, "template_values"),
        ({"messages": [USER], "tools": [5]}, RequestError, "tools"),
        ({"messages": [USER], "documents": [5]}, RequestError, "documents"),
    ],
)
def test_wrong_arguments(folder, arguments: dict, error: type, said: str) -> None:
    with pytest.raises(error, match=said):
        Chat(folder).prompts.make(**arguments)


def test_special_tokens_reach_the_template(folder) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>"}))
    (folder / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}")
    prompt = Chat(folder).prompts.make([USER])
    assert prompt.text == "<s>Hello you." and prompt.ids[0] == 0 and prompt.ids[1] != 0


def test_a_folder_without_a_template(folder) -> None:
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(TemplateError, match="no chat template"):
        Chat(folder).prompts.make([USER])
