"""Messages, tools and documents: what is accepted, what templates get, and how errors read."""

import enum
import typing

import pytest

from lepton_edge.errors import RequestError
from lepton_edge.text.chat.messages import plain, read_documents, read_messages, read_tools
from lepton_edge.text.chat.schema import function_schema

USER = {"role": "user", "content": "Hi"}


def test_messages_are_copied_as_plain_data() -> None:
    class Text(str):
        pass

    given = [{"role": "user", "content": Text("Hi"), "name": None, "extra": (1, Text("a"))}]
    (made,) = read_messages(given)
    assert made == {"role": "user", "content": "Hi", "extra": [1, "a"]}
    assert type(made["content"]) is str and type(made["extra"][1]) is str
    made["extra"].append(2)
    assert given[0]["extra"] == (1, "a")


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]
    assert read_messages([{"role": "user", "content": parts}])[0]["content"] == "a b"


@pytest.mark.parametrize(
    "call",
    [
        {"name": "f", "arguments": {"x": 1}},
        {"name": "f", "arguments": '{"x": 1}'},
        {"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
        {"function": {"name": "f", "arguments": {"x": 1}}, "id": None},
    ],
)
def test_tool_calls_are_made_alike(call: dict) -> None:
    (made,) = read_messages([{"role": "assistant", "tool_calls": [call]}])
    assert made == {
        "role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]
    }  # fmt: skip


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_has_the_names_that_templates_read(key: str) -> None:
    (made,) = read_messages([{"role": "assistant", "content": "", key: "because"}])
    assert made["reasoning_content"] == made["thinking"] == "because"


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (None, "messages is None; expected a list"),
        ("Hi", "messages is 'Hi'; expected a list"),
        ([], "messages is empty"),
        (["Hi"], r"messages\[0\] is 'Hi'; expected a dict"),
        ([USER, {"content": "x"}], r"messages\[1\] has the role None; expected one of system, developer, user"),
        ([{"role": "robot", "content": "x"}], r"messages\[0\] has the role 'robot'; expected one of"),
        ([{"role": ["user"], "content": "x"}], "has the role"),
        ([{"role": "user"}], r"messages\[0\] has no content"),
        ([{"role": "user", "content": None}], r"messages\[0\] has no content"),
        ([{"role": "assistant", "tool_calls": []}], r"messages\[0\] has no content"),
        ([{"role": "user", "content": 5}], r"messages\[0\]\['content'\] is 5; expected text"),
        ([{"role": "user", "content": [{"type": "image"}]}], r"\['content'\]\[0\] is {'type': 'image'}; expected"),
        ([{"role": "user", "content": [{"type": "text", "text": 1}]}], r"\['content'\]\[0\] is"),
        ([{**USER, "x": {1: 2}}], r"messages\[0\]\['x'\] has the key 1"),
        ([{**USER, "x": [object()]}], r"messages\[0\]\['x'\]\[0\] is of type object; expected what JSON can express"),
        ([{**USER, "tool_calls": [{"name": "f"}]}], "is the user's and has tool_calls"),
        ([{"role": "assistant", "tool_calls": {"name": "f"}}], r"\['tool_calls'\] is .*; expected a list"),
        ([{"role": "assistant", "tool_calls": ["f"]}], r"\['tool_calls'\]\[0\] is 'f'; expected a dict with name"),
        ([{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}], "arguments that are '{'"),
        ([{"role": "assistant", "tool_calls": [{"name": "f", "arguments": [1]}]}], "expected a dict"),
        ([{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[" * 99999}]}], "expected a dict"),
    ],
)
def test_wrong_messages(messages, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        read_messages(messages)


def test_data_that_contains_itself_is_refused() -> None:
    endless: list = []
    endless.append(endless)
    with pytest.raises(RequestError, match="nested more than 32 deep"):
        plain(endless, "x")


def test_tools_and_documents() -> None:
    schema = {"type": "function", "function": {"name": "f", "parameters": {}}}
    assert read_tools([schema, {"name": "g"}]) == [schema, {"name": "g"}]
    assert read_tools(None) is read_tools([]) is None
    assert read_documents([{"title": "a"}]) == [{"title": "a"}] and read_documents(None) is None


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ("f", "tools is 'f'"),
        ({"name": "f"}, "tools is"),
        ([5], r"tools\[0\] is 5"),
        ([{"function": {}}], r"tools\[0\] is .*function's name"),
    ],
)
def test_wrong_tools(tools, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        read_tools(tools)


@pytest.mark.parametrize("documents", ["x", {"title": "x"}, ["x"], 5])
def test_wrong_documents(documents) -> None:
    with pytest.raises(RequestError, match="documents"):
        read_documents(documents)


class Unit(enum.Enum):
    C = "celsius"
    F = "fahrenheit"


def weather(
    place: str,
    days: int | None = 1,
    unit: Unit = Unit.C,
    more: typing.Optional[list[dict[str, float]]] = None,  # noqa: UP045 - as users write it
    kind: typing.Literal["now", 3] = "now",
    either: int | str = 1,
    pair: tuple[int, bool] = (1, True),
    anything: typing.Any = None,
) -> str:
    """The weather at a place.

    It is not measured.

    Args:
        place: A town,
            with its country: as people
            write it.
        days (int): How many days ahead.
        unit: What to measure in.
        more: Numbers.
        kind: Which.
        either: One of two.
        pair: Two.
        anything: Whatever. (choices: ["a", "b"])

    Returns:
        What the sky
        is like.
    """
    return place


def test_a_function_becomes_a_schema() -> None:
    """Equal to transformers' get_json_schema for the same function (5.24, compared once by hand)."""
    (made,) = read_tools([weather])
    properties = {
        "place": {"type": "string", "description": "A town, with its country: as people write it."},
        "days": {"type": "integer", "nullable": True, "description": "How many days ahead."},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "description": "What to measure in."},
        "more": {
            "type": "array",
            "items": {"type": "object", "additionalProperties": {"type": "number"}},
            "nullable": True,
            "description": "Numbers.",
        },
        "kind": {"type": ["string", "integer"], "enum": ["now", 3], "description": "Which."},
        "either": {"type": ["integer", "string"], "description": "One of two."},
        "pair": {
            "type": "array",
            "prefixItems": [{"type": "integer"}, {"type": "boolean"}],
            "description": "Two.",
        },
        "anything": {"enum": ["a", "b"], "description": "Whatever."},
    }
    assert made == {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather at a place.\n\nIt is not measured.",
            "parameters": {"type": "object", "properties": properties, "required": ["place"]},
            "return": {"type": "string", "description": "What the sky\n    is like."},
        },
    }


def test_methods_have_no_self() -> None:
    class Clock:
        def now(self) -> Unit:
            """The time."""

        @staticmethod
        def later(hours: int):
            """Later.

            Args:
                hours: how many
            """

    assert function_schema(Clock().now)["function"]["parameters"] == {"type": "object", "properties": {}}
    assert function_schema(Clock.now)["function"]["parameters"] == {"type": "object", "properties": {}}
    assert function_schema(Clock().later)["function"]["parameters"]["required"] == ["hours"]


def bare(x: int): ...


def untyped(x):
    """Does.

    Args:
        x: it
    """


def undescribed(x: int):
    """Does."""


def odd(x: complex):
    """Does.

    Args:
        x: it
    """


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (bare, "the tool bare has no docstring"),
        (untyped, "its argument x has no type hint"),
        (undescribed, "its argument x is not in the docstring's Args"),
        (odd, r"its argument x has the type <class 'complex'>, which has no JSON schema"),
    ],
)
def test_functions_that_cannot_be_tools(function, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        read_tools([function])
