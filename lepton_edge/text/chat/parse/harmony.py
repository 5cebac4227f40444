"""The channels of gpt-oss: `<|channel|>NAME to=TOOL <|constrain|>json<|message|>BODY<|end|><|start|>assistant…`.

The analysis channel is reasoning; what is addressed to a tool is a call, its body the arguments; the rest is text.
Source: OpenAI's description of the harmony response format (2025).
"""

from __future__ import annotations

import re

from lepton_edge.text.chat.parse.base import MOST_HEADER, Balanced, ToolCall, Writer, loads, possible

START, CHANNEL, MESSAGE, CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
ENDS = ("<|end|>", "<|call|>", "<|return|>")
STOPS = (*ENDS, START, CHANNEL)
CHANNEL_NAME = re.compile(r"<\|channel\|>\s*(\w+)")
RECIPIENT = re.compile(r"\bto=([^\s<]+)")
HEADER = re.compile(r"\s*(?:<\||assistant\b|to=)")


class Harmony:
    """Headers and bodies in turns; an answer begins inside a header, for the prompt ends with `<|start|>assistant`."""

    markers = frozenset({*STOPS, MESSAGE, CONSTRAIN})
    ends: frozenset[str] = frozenset({"<|call|>", "<|return|>"})

    def __init__(self) -> None:
        self._held = ""
        self._body = False
        self._channel = "final"
        self._recipient: str | None = None
        self._json = Balanced()

    def push(self, text: str, writer: Writer) -> None:
        self._held += text
        while self._step(writer):
            pass

    def flush(self, writer: Writer) -> None:
        text, self._held = self._held, ""
        if not self._body:
            if not HEADER.match(text):
                writer.text(text)
        elif self._recipient is not None:
            self._call(text, writer)
        else:
            self._write(text, writer)
        self._body = False

    def _step(self, writer: Writer) -> bool:
        """Whether it got further and may again."""
        if not self._body:
            return self._header(writer)
        if self._recipient is not None:
            return self._arguments(writer)
        return self._text(writer)

    def _header(self, writer: Writer) -> bool:
        place = self._held.find(MESSAGE, 0, MOST_HEADER)
        if place < 0 or not HEADER.match(self._held):
            if len(self._held) < MOST_HEADER and (not self._held.strip() or HEADER.match(self._held) or self._begins()):
                return False
            self._channel, self._recipient = "final", None  # no header: a text
            self._held = self._held.removeprefix(START).removeprefix(CHANNEL)  # else the text would end before it began
        else:
            header = self._held[:place]
            channel, recipient = CHANNEL_NAME.search(header), RECIPIENT.search(header)
            self._channel = channel[1] if channel else "final"
            self._recipient = recipient[1].removeprefix("functions.") if recipient else None
            self._held, self._json = self._held[place + len(MESSAGE) :], Balanced()
        self._body = True
        return True

    def _begins(self) -> bool:
        """Whether a header may begin so."""
        return any(word.startswith(self._held.lstrip()) for word in ("<|", "assistant", "to="))

    def _text(self, writer: Writer) -> bool:
        places = [place for stop in STOPS if (place := self._held.find(stop)) >= 0]
        if not places:
            keep = len(self._held) - possible(self._held, STOPS)
            self._write(self._held[:keep], writer)
            self._held = self._held[keep:]
            return False
        self._write(self._held[: min(places)], writer)
        self._held = self._held[min(places) :]
        self._end_body(writer)
        return True

    def _arguments(self, writer: Writer) -> bool:
        self._held = self._held.lstrip()
        if not self._held:
            return False
        if self._held[0] == "{":
            end = self._json.end(self._held)
            if end is None and not self._json.broken:
                return False
            if end is not None and not self._json.broken:
                self._call(self._held[:end], writer)
                self._held = self._held[end:]
        self._recipient = None  # what follows, if anything, is text
        return True

    def _call(self, text: str, writer: Writer) -> None:
        arguments = loads(text)
        if isinstance(arguments, dict) and self._recipient:
            writer.call(ToolCall(self._recipient, arguments))
        else:
            writer.text(text)

    def _write(self, text: str, writer: Writer) -> None:
        if self._channel == "analysis":
            writer.reasoning(text)
        else:
            writer.text(text)

    def _end_body(self, writer: Writer) -> None:
        end = next((end for end in ENDS if self._held.startswith(end)), "")
        self._held = self._held[len(end) :]
        writer.cut() if self._channel == "analysis" else None
        self._body = False
