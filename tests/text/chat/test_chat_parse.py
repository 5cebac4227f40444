"""Answers: text, reasoning and tool calls told apart, in any pieces, whatever the model writes."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_edge.text.chat.parse import AnswerParser, Part, ToolCall, parser_for
from lepton_edge.text.chat.parse.base import MOST_HEADER

TOOLS = ("get_weather", "add")
SOURCES = {
    "hermes": "<think> <tool_call>",
    "mistral": "[THINK] [TOOL_CALLS]",
    "llama3": "<|eot_id|> <|python_tag|>",
    "harmony": "<|channel|><|message|>",
    "plain": "",
}


def parser(name: str, tools=TOOLS, prompt: str = "") -> AnswerParser:
    return parser_for(SOURCES[name], tools, prompt)


def parse(reader: AnswerParser, pieces) -> Part:
    """All parts joined."""
    parts = [*(reader.push(piece) for piece in pieces), reader.flush()]
    calls = tuple(call for part in parts for call in part.calls)
    return Part("".join(part.text for part in parts), "".join(part.reasoning for part in parts), calls)


def test_the_template_of_gpt_oss_means_harmony(shared: Path) -> None:
    folder = shared / "chat_templates" / "llama_cpp_templates"
    source = (folder / "openai-gpt-oss-120b.jinja").read_text(encoding="utf-8")
    reader = parser_for(source, (), "<|start|>assistant")
    assert reader.markers == parser("harmony").markers and reader.ends == {"<|call|>", "<|return|>"}
    answer = "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>final<|message|>Yes"
    assert parse(reader, answer) == Part("Yes", "Hm")


WEATHER = ToolCall("get_weather", {"place": "Köln"})
ADD = ToolCall("add", {"a": 1, "b": [2.5, None, {"c": True}]})
ODD = ToolCall("add", {"s": 'one " \\ ]}}} </tool_call> {[<|end|><|call|>] [TOOL_CALLS] ; \n{"name": "x"'})


def body(call: ToolCall, key: str = "arguments") -> str:
    return json.dumps({"name": call.name, key: call.arguments})


def written(name: str, text: str, reasoning: str, calls) -> str:
    """An answer in a model's own format."""
    if name == "harmony":
        return "".join([
            f"<|channel|>analysis<|message|>{reasoning}<|end|><|start|>assistant" if reasoning else "",
            f"<|channel|>commentary<|message|>{text}<|end|><|start|>assistant" if text else "",
            "<|call|><|start|>assistant".join(
                f"<|channel|>commentary to=functions.{c.name} <|constrain|>json<|message|>{json.dumps(c.arguments)}"
                for c in calls
            ),
        ])  # fmt: skip
    begin, end = ("[THINK]", "[/THINK]") if name == "mistral" else ("<think>\n", "\n</think>\n\n")
    head = (f"{begin}{reasoning}{end}" if reasoning else "") + text
    if name == "hermes":
        return head + "".join(f"\n<tool_call>\n{body(call)}\n</tool_call>" for call in calls)
    if name == "mistral":
        return head + "".join(f"[TOOL_CALLS]{call.name}[ARGS]{json.dumps(call.arguments)}" for call in calls)
    if name == "llama3" and calls:
        return head + "<|python_tag|>" + "; ".join(body(call, "parameters") for call in calls)
    return head


FORMATS = ("hermes", "mistral", "llama3", "harmony")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("text", ["", "I look.\nTwice."])
@pytest.mark.parametrize("reasoning", ["", "They ask\n\nfor two."])
@pytest.mark.parametrize("calls", [(), (WEATHER,), (WEATHER, ADD, ODD)], ids=len)
def test_every_format_letter_by_letter(name: str, text: str, reasoning: str, calls) -> None:
    answer = written(name, text, reasoning, calls)
    reader, shown, thought = parser(name), "", ""
    for letter in answer:
        part = reader.push(letter)
        shown, thought = shown + part.text, thought + part.reasoning
        assert text.startswith(shown) and reasoning.startswith(thought), "a marker leaked"
    assert parse(parser(name), answer) == parse(parser(name), [answer]) == Part(text, reasoning, calls)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)
NAMES = st.sampled_from(["add", "get_weather", "a.b-c_D9"])
CALLS = st.lists(st.builds(ToolCall, NAMES, st.dictionaries(st.text(max_size=3), JSON, max_size=2)), max_size=2)
TEXT = st.text("abc {}\"'\n:.;é", max_size=20).map(str.strip)


@given(st.sampled_from(FORMATS), TEXT, TEXT, CALLS, st.integers(1, 9))
def test_calls_come_back(name: str, text: str, reasoning: str, calls: list, width: int) -> None:
    if name == "llama3" and text.startswith("{"):
        text = "x" + text  # might be a call
    answer = written(name, text, reasoning, calls)
    pieces = [answer[start : start + width] for start in range(0, len(answer), width)]
    assert parse(parser(name), pieces) == Part(text, reasoning, tuple(calls))


@given(st.sampled_from(FORMATS), st.data())
def test_a_cut_answer_loses_nothing_that_was_whole(name: str, data) -> None:
    calls = (WEATHER, ODD)
    answer = written(name, "Text.", "Reasons.", calls)
    cut = answer[: data.draw(st.integers(0, len(answer)))]
    found = parse(parser(name), cut)
    assert calls[: len(found.calls)] == found.calls
    assert "Reasons.".startswith(found.reasoning[:8])
    if found.text != cut:  # which is half of the first marker, or the beginning of the text
        assert "Text.".startswith(found.text[:5]) and (found.text.startswith("Text.") or not found.calls)


SOUP = st.lists(
    st.sampled_from([
        *parser("hermes").markers, *parser("mistral").markers, *parser("llama3").markers, *parser("harmony").markers,
        "<tool_", "[TOOL", "<|", "name", "assistant", "to=functions.add ", '{"name": "add", ', '"arguments": {}}',
        '"parameters": {}}', "{", "}", "[", "]", '"', "\\", "\n", " ", ";", "x", "é", "[" * 70, '{"a":' * 70,
    ]),
    max_size=14,
)  # fmt: skip


@given(st.sampled_from(list(SOURCES)), SOUP, st.integers(1, 5), st.booleans())
def test_any_pieces_mean_the_same(name: str, soup: list, width: int, begun: bool) -> None:
    answer = "".join(soup)
    prompt = "<think>\n" if begun else ""
    pieces = [answer[start : start + width] for start in range(0, len(answer), width)]
    assert parse(parser(name, prompt=prompt), pieces) == parse(parser(name, prompt=prompt), [answer])


@pytest.mark.parametrize("start", ["<|channel|>", "<|start|>", "<|start|><|channel|>", "<|channel|><|start|>"])
def test_a_header_without_an_end_is_a_text(start: str) -> None:
    answer = start + "x" * 5000
    for width in (3, 5000):
        pieces = [answer[i : i + width] for i in range(0, len(answer), width)]
        assert parse(parser("harmony"), pieces).text == "x" * 5000


def test_a_header_is_looked_for_where_one_can_be() -> None:
    answer = "<|channel|>" + "x" * 600 + "<|message|>y"
    assert {parse(parser("harmony"), pieces) for pieces in (answer, [answer])} == {Part("x" * 600 + "<|message|>y")}


@pytest.mark.parametrize("space", [0, 3, 600])
@pytest.mark.parametrize("size", [1, 505, 506, 700])
def test_the_bound_of_a_name_does_not_depend_on_pieces(space: int, size: int) -> None:
    answer = f"[TOOL_CALLS]{' ' * space}{'f' * size}[ARGS]{{}}"
    short = size + len("[ARGS]") < MOST_HEADER
    expected = Part("", "", (ToolCall("f" * size, {}),)) if short else Part(answer)
    assert parse(parser("mistral"), answer) == parse(parser("mistral"), [answer]) == expected


@given(st.sampled_from(["hermes", "mistral", "llama3", "plain"]), SOUP)
def test_text_that_is_no_call_is_kept(name: str, soup: list) -> None:
    answer = "".join(soup)
    found = parse(parser(name, tools=()), [answer])
    kept = "".join((found.reasoning + found.text).split())
    begin, end = ("[THINK]", "[/THINK]") if name == "mistral" else ("<think>", "</think>")
    expected = answer.lstrip()
    if expected.startswith(begin):
        expected = expected.removeprefix(begin).replace(end, "", 1)
    assert kept == "".join(expected.split()) and not found.calls


@pytest.mark.parametrize(
    ("name", "answer", "expected"),
    [
        ("hermes", '<tool_call>{"name": "f", "arguments": {"x": 1}}', Part("", "", (ToolCall("f", {"x": 1}),))),
        ("hermes", '<tool_call>{"name": "f"}</tool_call>!', Part("!", "", (ToolCall("f", {}),))),
        ("hermes", '<tool_call>{"name": "f", "arguments": "{\\"x\\": 1}"}</tool_call>',
         Part("", "", (ToolCall("f", {"x": 1}),))),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"x":', Part('<tool_call>{"name": "f", "arguments": {"x":')),
        ("hermes", "<tool_call>{'name': 'f'}</tool_call>", Part("<tool_call>{'name': 'f'}</tool_call>")),
        ("hermes", '<tool_call>{"name": 1, "arguments": {}}', Part('<tool_call>{"name": 1, "arguments": {}}')),
        ("hermes", '<tool_call>{"name": "f", "arguments": [1]}', Part('<tool_call>{"name": "f", "arguments": [1]}')),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"x": NaN}}',
         Part('<tool_call>{"name": "f", "arguments": {"x": NaN}}')),
        ("hermes", "a <tool_ca", Part("a <tool_ca")),
        ("hermes", '<tool_call>{"name": "f", "arguments": {}}\n</tool_', Part("", "", (ToolCall("f", {}),))),
        ("hermes", "<think>a</think>b <think>c</think>", Part("b <think>c</think>", "a")),
        ("hermes", "<think>never ends", Part("", "never ends")),
        ("hermes", "<thi", Part("<thi")),
        ("mistral", '[TOOL_CALLS] [{"name": "f", "arguments": {"x": 1}, "id": "abc"}, {"name": "g", "arguments": {}}]',
         Part("", "", (ToolCall("f", {"x": 1}, "abc"), ToolCall("g", {})))),
        ("mistral", '[TOOL_CALLS]f[CALL_ID]a1[ARGS]{"x": 1}', Part("", "", (ToolCall("f", {"x": 1}, "a1"),))),
        ("mistral", "[TOOL_CALLS]f[ARGS]{'x'", Part("[TOOL_CALLS]f[ARGS]{'x'")),
        ("mistral", "[TOOL_CALLS] or what?", Part("[TOOL_CALLS] or what?")),
        ("mistral", "[TOOL_CALLS]\n ", Part("[TOOL_CALLS]\n ")),
        ("mistral", "[TOOL_CALLS][]", Part("[TOOL_CALLS][]")),
        ("llama3", '{"name": "add", "parameters": {"a": 1}}', Part("", "", (ToolCall("add", {"a": 1}),))),
        ("llama3", '{"type": "function", "name": "add", "parameters": {}}', Part("", "", (ToolCall("add", {}),))),
        ("llama3", '{"name": "other", "parameters": {}}', Part('{"name": "other", "parameters": {}}')),
        ("llama3", '{"name": "add", "age": 3}', Part('{"name": "add", "age": 3}')),
        ("llama3", '{"answer": 4} is JSON', Part('{"answer": 4} is JSON')),
        ("llama3", "<|python_tag|>print(1)", Part("<|python_tag|>print(1)")),
        ("llama3", '<|python_tag|>{"name": "other", "parameters": {}}', Part("", "", (ToolCall("other", {}),))),
        ("harmony", "No header at all.", Part("No header at all.")),
        ("harmony", "<|channel|>final<|message|>Yes <|no|> it is", Part("Yes <|no|> it is")),
        ("harmony", "<|channel|>analysis<|message|>Hm<|channel|>final<|message|>Yes", Part("Yes", "Hm")),
        ("harmony", " to=functions.add<|channel|>commentary json<|message|>{}", Part("", "", (ToolCall("add", {}),))),
        ("harmony", "<|channel|>commentary to=functions.add<|message|>{cut", Part("{cut")),
        ("harmony", "<|channel|>ana", Part("")),
    ],
)  # fmt: skip
def test_what_models_write(name: str, answer: str, expected: Part) -> None:
    assert parse(parser(name), [answer]) == parse(parser(name), answer) == expected


def test_without_tools_nothing_is_a_call() -> None:
    for name in ("hermes", "mistral", "llama3"):
        answer = written(name, "a", "", (WEATHER,))
        assert "".join(parse(parser(name, tools=()), [answer]).text.split()) == "".join(answer.split())


@pytest.mark.parametrize(
    ("source", "begin", "end"),
    [("x <think>", "<think>", "</think>"), ("[THINK]", "[THINK]", "[/THINK]"), ("", "<think>", "</think>"),
     ("<seed:think>", "<seed:think>", "</seed:think>"),
     ("<|START_THINKING|>", "<|START_THINKING|>", "<|END_THINKING|>")],
)  # fmt: skip
def test_reasoning_begun_by_the_model_or_by_the_prompt(source: str, begin: str, end: str) -> None:
    expected = Part("Yes. ", "Let me see.")
    assert parse(parser_for(source, (), "user:"), f"\n{begin}\nLet me see.\n{end}\n\nYes. ") == expected
    assert parse(parser_for(source, (), f"user: {begin}\n"), f"Let me see.\n{end}\n\nYes. ") == expected


def test_a_long_call_takes_linear_time() -> None:
    call = ToolCall("add", {"s": "x" * 100_000})
    answer = written("hermes", "", "", (call,))
    assert parse(parser("hermes"), [answer[i : i + 4] for i in range(0, len(answer), 4)]).calls == (call,)


@pytest.mark.parametrize("name", list(SOURCES))
def test_nesting_without_end(name: str) -> None:
    for hostile in ("<tool_call>" + '{"a":' * 99999, "[TOOL_CALLS]" + "[" * 99999, "{" * 99999, "[TOOL_CALLS]" * 9999):
        found = parse(parser(name), [hostile])
        assert not found.calls and len(found.text) >= len(hostile) - 20
