"""Tool calls of Hermes 2/3 and Qwen 2.5/3: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, several in a row."""

from __future__ import annotations

from lepton_edge.text.chat.parse.base import Balanced, Writer, call_of, loads, possible

BEGIN, END = "<tool_call>", "</tool_call>"


class Hermes:
    """Text until `<tool_call>`, then one JSON object, then `</tool_call>`, which may be missing."""

    markers = frozenset({BEGIN, END})
    ends: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self._held = ""
        self._json: Balanced | None = None  # of the object that is being read
        self._closing = False  # behind an object

    def push(self, text: str, writer: Writer) -> None:
        self._held += text
        while self._step(writer):
            pass

    def flush(self, writer: Writer) -> None:
        if self._json is not None:
            writer.text(BEGIN)
        rest = self._held.lstrip()
        if not (self._closing and END.startswith(rest)):
            writer.text(self._held)
        self._held, self._json, self._closing = "", None, False

    def _step(self, writer: Writer) -> bool:
        """Whether it got further and may again."""
        if self._json is not None:
            return self._object(writer, self._json)
        if self._closing:
            rest = self._held.lstrip()
            if not rest.startswith(END) and END.startswith(rest):
                return False
            self._closing, self._held = False, rest.removeprefix(END)
        before, found, after = self._held.partition(BEGIN)
        if found:
            writer.text(before)
            self._held, self._json = after, Balanced()
            return True
        keep = len(self._held) - possible(self._held, [BEGIN])
        writer.text(self._held[:keep])
        self._held = self._held[keep:]
        return False

    def _object(self, writer: Writer, scanner: Balanced) -> bool:
        self._held = self._held.lstrip()
        if not self._held:
            return False
        end = scanner.end(self._held) if self._held[0] == "{" else 0
        if end is None and not scanner.broken:
            return False
        call = call_of(loads(self._held[:end]), "arguments") if end and not scanner.broken else None
        self._json = None
        if call is None:
            end = end or 0
            writer.text(BEGIN + self._held[:end])
        else:
            writer.call(call)
            self._closing = True
        self._held = self._held[end:]
        return True
