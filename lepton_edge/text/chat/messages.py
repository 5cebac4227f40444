"""What a caller says, checked and made plain: messages, tools and documents as chat templates take them."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lepton_edge.errors import RequestError
from lepton_edge.text.chat.schema import function_schema

ROLES = ("system", "developer", "user", "assistant", "tool")
MOST_DEPTH = 32
# Names under which a message's reasoning is passed; templates read the first, gpt-oss's the second.
REASONING = ("reasoning_content", "thinking", "reasoning")

Message = dict[str, Any]


def read_messages(messages: Any) -> list[Message]:
    """A copy of a conversation as plain dicts.

    A message is a dict with a `role` and a `content`: text, or a list of {"type": "text", "text": …}, whose texts are
    joined. An assistant's may have `tool_calls` instead: {"name", "arguments"} or OpenAI's {"type": "function",
    "function": {"name", "arguments"}}, arguments as a dict or as JSON. Other keys go to the template as they are;
    None counts as absent.

    Raises:
        RequestError: naming the message and what is wrong with it.
    """
    if isinstance(messages, str | bytes) or not isinstance(messages, Sequence):
        raise RequestError(
            f"messages is {reprlib.repr(messages)}; expected a list of messages such as "
            '{"role": "user", "content": "Hello"}'
        )
    if not messages:
        raise RequestError("messages is empty; expected at least one message")
    return [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def read_tools(tools: Any) -> list[dict[str, Any]] | None:
    """Tools as JSON schemas; None where there are none.

    A tool is a function with type hints and a docstring (see `function_schema`), or a dict: {"type": "function",
    "function": {"name": …, "description": …, "parameters": JSON schema}}, or the inner dict alone.

    Raises:
        RequestError: naming the tool and what is wrong with it.
    """
    if tools is None:
        return None
    if isinstance(tools, str | bytes | Mapping) or not isinstance(tools, Sequence):
        raise RequestError(f"tools is {reprlib.repr(tools)}; expected a list of functions or of JSON schemas")
    return [_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools)] or None


def read_documents(documents: Any) -> list[dict[str, Any]] | None:
    """Documents that the template writes beside the conversation: dicts, mostly of `title` and `text`.

    Raises:
        RequestError: not a list of dicts.
    """
    if documents is None:
        return None
    if isinstance(documents, str | bytes | Mapping) or not isinstance(documents, Sequence):
        raise RequestError(f"documents is {reprlib.repr(documents)}; expected a list of dicts with title and text")
    for index, document in enumerate(documents):
        if not isinstance(document, Mapping):
            raise RequestError(f"documents[{index}] is {reprlib.repr(document)}; expected a dict with title and text")
    return [plain(document, f"documents[{index}]") for index, document in enumerate(documents)]


def plain(value: Any, where: str, depth: int = MOST_DEPTH) -> Any:
    """A copy of JSON-like data with nothing in it but dict, list, str, int, float, bool and None.

    Raises:
        RequestError: something else is in it, naming the place; or it is nested too deeply.
    """
    if depth == 0:
        raise RequestError(f"{where} is nested more than {MOST_DEPTH} deep; expected plain JSON data")
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        wrong = next((key for key in value if not isinstance(key, str)), None)
        if wrong is not None:
            raise RequestError(f"{where} has the key {reprlib.repr(wrong)}; expected keys that are strings")
        return {str(key): plain(item, f"{where}[{key!r}]", depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{index}]", depth - 1) for index, item in enumerate(value)]
    raise RequestError(f"{where} is of type {type(value).__name__}; expected what JSON can express")


def _message(message: Any, where: str) -> Message:
    if not isinstance(message, Mapping):
        raise RequestError(f"{where} is {reprlib.repr(message)}; expected a dict with role and content")
    role = message.get("role")
    if role not in ROLES:
        raise RequestError(f"{where} has the role {reprlib.repr(role)}; expected one of {', '.join(ROLES)}")
    rest = {key: item for key, item in message.items() if item is not None and key not in ("content", "tool_calls")}
    made: Message = plain(rest, where)
    content, calls = message.get("content"), message.get("tool_calls")
    if content is not None:
        made["content"] = _content(content, f"{where}['content']")
    if calls is not None:
        if role != "assistant":
            raise RequestError(f"{where} is the {role}'s and has tool_calls; expected them in an assistant's message")
        if isinstance(calls, str | Mapping) or not isinstance(calls, Sequence):
            raise RequestError(f"{where}['tool_calls'] is {reprlib.repr(calls)}; expected a list")
        made["tool_calls"] = [_call(call, f"{where}['tool_calls'][{i}]") for i, call in enumerate(calls)]
    if content is None and not made.get("tool_calls"):
        raise RequestError(f"{where} has no content; expected text, or a list of {{'type': 'text', 'text': …}}")
    reasoning = next((made[name] for name in REASONING if name in made), None)
    if reasoning is not None:
        made = {"thinking": reasoning, **made, "reasoning_content": reasoning}
    return made


def _content(content: Any, where: str) -> str:
    if isinstance(content, str):
        return str(content)
    if not isinstance(content, list | tuple):
        raise RequestError(f"{where} is {reprlib.repr(content)}; expected text, or a list of parts")
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise RequestError(
                f"{where}[{index}] is {reprlib.repr(part)}; expected {{'type': 'text', 'text': …}}, the one kind "
                "of part that is supported"
            )
    return "".join(part["text"] for part in content)


def _call(call: Any, where: str) -> dict[str, Any]:
    """{"type": "function", "function": {"name", "arguments": dict}}, with the other keys that the call has."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RequestError(f"{where} is {reprlib.repr(call)}; expected a dict with name and arguments")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            arguments = None
    if not isinstance(arguments, Mapping):
        raise RequestError(f"{where} has arguments that are {reprlib.repr(function.get('arguments'))}; expected a dict")
    inner = {"name": str(function["name"]), "arguments": plain(arguments, f"{where}['arguments']")}
    outer = {key: item for key, item in call.items() if key not in ("type", "function", "name", "arguments")}
    return {"type": "function", **plain({k: v for k, v in outer.items() if v is not None}, where), "function": inner}


def _tool(tool: Any, where: str) -> dict[str, Any]:
    if isinstance(tool, Mapping):
        function = tool.get("function", tool)
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise RequestError(f"{where} is {reprlib.repr(tool)}; expected a JSON schema with a function's name")
        made: dict[str, Any] = plain(tool, where)
        return made
    if isinstance(tool, Callable):  # type: ignore[arg-type]
        return function_schema(tool)
    raise RequestError(f"{where} is {reprlib.repr(tool)}; expected a function or a JSON schema")
