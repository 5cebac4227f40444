"""Conversations that chat templates are tried on; plain data, read by the tests and by tools/make_chat_golden.py."""

from datetime import datetime
from typing import Any

NOW = datetime(2025, 3, 9, 14, 5)
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather at a place, now.",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "A town, such as \"Köln\"."},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "days": {"type": "integer", "description": "How many days ahead."},
            },
            "required": ["place"],
        },
    },
}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds <two> numbers & nothing else.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "number", "description": "one"}, "b": {"type": "number"}},
            "required": ["a", "b"],
        },
    },
}


def _say(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def _call(name: str, number: int, **arguments: Any) -> dict[str, Any]:
    return {"id": f"call0000{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


SYSTEM = _say("system", "You are terse.\nAnswer in <b>one</b> line.")
HELLO = _say("user", "  Hello, \"you\" & <them>!\n")
ASK = _say("user", "What is the weather in Köln?")
USED = _say("tool", '{"sky": "clear", "degrees": 21.5}', name="get_weather", tool_call_id="call00001")

# name: what `apply_chat_template` is given; the last user message is what is answered
CHATS: dict[str, dict[str, Any]] = {
    "plain": {"messages": [HELLO]},
    "system": {"messages": [SYSTEM, HELLO]},
    "turns": {"messages": [HELLO, _say("assistant", "Hi. <3 "), _say("user", "And now?")]},
    "long": {
        "messages": [
            SYSTEM,
            HELLO,
            _say("assistant", "<think>\nA greeting.\n</think>\n\nHi."),
            _say("user", "Why?"),
            _say("assistant", "Because.", reasoning_content="They ask why.\nSo I say why."),
            _say("user", "日本語?"),
        ]
    },
    "whole": {"messages": [SYSTEM, HELLO, _say("assistant", "Hi.")], "add_generation_prompt": False},
    "tools": {"messages": [ASK], "tools": [WEATHER, ADD]},
    "used": {
        "messages": [
            SYSTEM,
            ASK,
            _say("assistant", "", tool_calls=[_call("get_weather", 1, place="Köln", days=2)]),
            USED,
        ],
        "tools": [WEATHER],
    },
    "used_twice": {
        "messages": [
            ASK,
            _say(
                "assistant",
                "I look.",
                reasoning_content="Two things.",
                tool_calls=[_call("get_weather", 1, place="Köln"), _call("add", 2, a=1, b=2.5)],
            ),
            USED,
            _say("tool", "3.5", name="add", tool_call_id="call00002"),
            _say("assistant", "It is clear, and 3.5."),
            _say("user", "Thanks."),
        ],
        "tools": [WEATHER, ADD],
    },
    "documents": {"messages": [ASK], "documents": [{"title": "Weather", "text": "Clear in <Köln>."}]},
    "thinking": {"messages": [SYSTEM, HELLO], "values": {"enable_thinking": False}},
}
