"""Tool calls of Llama 3.1 to 3.3: the answer is `{"name": …, "parameters": {…}}`, alone or after `<|python_tag|>`.

Several are separated by space or `;`. What follows the tag and is no such object (a program for the built-in
interpreter) is text.
"""

from __future__ import annotations

from collections.abc import Collection

from lepton_edge.text.chat.parse.base import Balanced, ToolCall, Writer, call_of, loads, possible

TAG = "<|python_tag|>"
SPACE = " \t\r\n"
KEYS = frozenset({"name", "parameters", "type", "id"})


class Llama3:
    """Calls at the beginning of an answer or after the tag; text otherwise.

    Args:
        tools: the tools' names. An object without the tag counts as a call only if it names one of them: an answer may
            be JSON as well.
    """

    markers = frozenset({TAG})
    ends: frozenset[str] = frozenset({"<|eom_id|>"})

    def __init__(self, tools: Collection[str]) -> None:
        self._tools = frozenset(tools)
        self._held = ""
        self._calls = True  # at a place where a call may begin
        self._tagged = False
        self._several = False  # behind a call, where another one may follow
        self._tag = ""  # what is text again unless a call follows
        self._json = Balanced()

    def push(self, text: str, writer: Writer) -> None:
        self._held += text
        while self._step(writer):
            pass

    def flush(self, writer: Writer) -> None:
        writer.text(self._tag + self._held)
        self._held = self._tag = ""

    def _step(self, writer: Writer) -> bool:
        """Whether it got further and may again."""
        if self._calls:
            return self._call(writer)
        before, found, after = self._held.partition(TAG)
        if found:
            writer.text(before)
            self._held, self._calls, self._json = after, True, Balanced()
            self._tagged, self._tag = True, TAG
            return True
        keep = len(self._held) - possible(self._held, [TAG])
        writer.text(self._held[:keep])
        self._held = self._held[keep:]
        return False

    def _call(self, writer: Writer) -> bool:
        rest = self._held.lstrip(SPACE + ";" * self._several)
        if rest != TAG and TAG.startswith(rest):  # nothing yet, or a part of the tag
            return False
        if rest.startswith("{"):
            end = self._json.end(rest)
            if end is None and not self._json.broken:
                return False
            call = None if self._json.broken else self._call_of(rest[:end])
            if call is not None and end is not None:
                writer.call(call)
                self._held, self._json, self._tag, self._several = rest[end:], Balanced(), "", True
                return True
        writer.text(self._tag)
        self._calls, self._tagged, self._tag, self._several = False, False, "", False
        return True

    def _call_of(self, text: str) -> ToolCall | None:
        value = loads(text)
        call = call_of(value, "parameters", needed=True)
        if call is None or self._tagged:
            return call
        return call if call.name in self._tools and value.keys() <= KEYS else None
