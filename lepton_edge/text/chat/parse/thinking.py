"""Reasoning between two markers at the beginning of an answer, such as `<think>…</think>` (DeepSeek-R1, Qwen3)."""

from __future__ import annotations

from lepton_edge.text.chat.parse.base import Writer, possible

# A template that has the first of a pair belongs to a model that writes both.
PAIRS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)


class Thinking:
    """Takes the reasoning out of an answer.

    Args:
        begin, end: the markers. `begin` counts before any other text only: later it is what the model talks about.
        begun: whether the prompt ended inside of it.
    """

    def __init__(self, begin: str, end: str, begun: bool) -> None:
        self.markers = frozenset({begin, end})
        self._begin, self._end = begin, end
        self._inside, self._over = begun, False
        self._held = ""

    def push(self, text: str, writer: Writer) -> str:
        """Take more of the answer, write the reasoning in it, and return what is none."""
        text, self._held = self._held + text, ""
        if not self._inside and not self._over:
            start = text.lstrip()
            if start.startswith(self._begin):
                self._inside, text = True, start[len(self._begin) :]
            elif self._begin.startswith(start):
                self._held = text
                return ""
            else:
                self._over = True
        if self._over:
            return text
        reasoning, found, rest = text.partition(self._end)
        if found:
            self._inside, self._over = False, True
            writer.reasoning(reasoning)
            writer.cut()
            return rest
        keep = len(text) - possible(text, [self._end])
        writer.reasoning(text[:keep])
        self._held = text[keep:]
        return ""

    def flush(self, writer: Writer) -> str:
        """End the answer."""
        text, self._held = self._held, ""
        if self._inside:
            writer.reasoning(text)
            return ""
        return text
