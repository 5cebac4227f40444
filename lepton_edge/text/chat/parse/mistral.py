"""Tool calls of Mistral: `[TOOL_CALLS][{"name": …, "arguments": {…}, "id": …}, …]`, the form of Nemo and Small 3.1, and
`[TOOL_CALLS]name[CALL_ID]id[ARGS]{…}`, once for each call and without an id in most, the form of later ones.
"""

from __future__ import annotations

import re

from lepton_edge.text.chat.parse.base import MOST_HEADER, Balanced, ToolCall, Writer, call_of, loads, possible

BEGIN, ID, ARGUMENTS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
NAME = re.compile(r"\s*([\w.-]+)\s*(?:\[CALL_ID\]\s*([\w.-]+)\s*)?\[ARGS\]\s*(?=\{)")
NAME_BEGUN = re.compile(r"\s*[\w.-]+\s*(?:\[[A-Z_]*\]?\s*[\w.-]*\s*){0,2}")


class Mistral:
    """Text until `[TOOL_CALLS]`, then a list of calls, or one call's name and arguments."""

    markers = frozenset({BEGIN, ID, ARGUMENTS})
    ends: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self._held = ""
        self._inside = False
        self._json = Balanced()

    def push(self, text: str, writer: Writer) -> None:
        self._held += text
        while self._step(writer):
            pass

    def flush(self, writer: Writer) -> None:
        writer.text(BEGIN * self._inside + self._held)
        self._held, self._inside = "", False

    def _step(self, writer: Writer) -> bool:
        """Whether it got further and may again."""
        if self._inside:
            return self._calls(writer)
        before, found, after = self._held.partition(BEGIN)
        if found:
            writer.text(before)
            self._held, self._inside, self._json = after, True, Balanced()
            return True
        keep = len(self._held) - possible(self._held, [BEGIN])
        writer.text(self._held[:keep])
        self._held = self._held[keep:]
        return False

    def _calls(self, writer: Writer) -> bool:
        if not self._held.strip():
            return False
        begin = len(self._held) - len(self._held.lstrip())
        header = NAME.match(self._held, begin)
        if header and header.end() - begin >= MOST_HEADER:
            header = None
        start = header.end() if header else begin
        if not header and self._held[begin] not in "[{":
            if len(self._held) - begin < MOST_HEADER and NAME_BEGUN.fullmatch(self._held, begin):
                return False
            return self._give_up(writer)
        end = self._json.end(self._held[start:])
        if end is None and not self._json.broken:
            return False
        value = None if self._json.broken else loads(self._held[start:][:end])
        calls: list[ToolCall | None]
        if header:
            calls = [ToolCall(header[1], value, header[2]) if isinstance(value, dict) else None]
        else:
            calls = [call_of(item, "arguments") for item in (value if isinstance(value, list) else [value])]
        if not calls or None in calls:
            return self._give_up(writer)
        for call in calls:
            assert call is not None
            writer.call(call)
        self._held, self._inside = self._held[start + (end or 0) :], False
        return True

    def _give_up(self, writer: Writer) -> bool:
        """The marker was text."""
        writer.text(BEGIN)
        self._inside = False
        return True
