"""What a model's answer means: text, reasoning and tool calls, told apart while the text comes.

One file for each format. The template says which of them its model was trained on.
"""

from __future__ import annotations

from collections.abc import Collection

from lepton_edge.text.chat.parse.base import Content, Part, PlainContent, ToolCall, Writer
from lepton_edge.text.chat.parse.harmony import CHANNEL, MESSAGE, Harmony
from lepton_edge.text.chat.parse.hermes import BEGIN, Hermes
from lepton_edge.text.chat.parse.llama3 import TAG, Llama3
from lepton_edge.text.chat.parse.mistral import BEGIN as MISTRAL_BEGIN
from lepton_edge.text.chat.parse.mistral import Mistral
from lepton_edge.text.chat.parse.thinking import PAIRS, Thinking

__all__ = ["AnswerParser", "Part", "ToolCall", "parser_for"]


class AnswerParser:
    """Reads one answer: `push` its text as it comes, `flush` at the end.

    Attributes:
        markers: special tokens whose text the parser needs; that of all others is to be left out.
        ends: special tokens that end an answer of this format.
    """

    markers: frozenset[str]
    ends: frozenset[str]

    def __init__(self, content: Content, thinking: Thinking | None = None) -> None:
        self.markers = content.markers | (thinking.markers if thinking else frozenset())
        self.ends = content.ends
        self._content = content
        self._thinking = thinking
        self._writer = Writer()

    def push(self, text: str) -> Part:
        """The part that is certain now: never half of a marker."""
        if self._thinking is not None:
            text = self._thinking.push(text, self._writer)
        self._content.push(text, self._writer)
        return self._writer.take()

    def flush(self) -> Part:
        """All that was held back."""
        if self._thinking is not None:
            self._content.push(self._thinking.flush(self._writer), self._writer)
        self._content.flush(self._writer)
        return self._writer.take(last=True)


def parser_for(source: str, tools: Collection[str], prompt: str) -> AnswerParser:
    """The parser for an answer.

    Args:
        source: the chat template's text.
        tools: the names of the tools that the model was told of; without any, nothing in its answer is a call.
        prompt: the rendered conversation; it may end inside the reasoning.
    """
    if CHANNEL in source and MESSAGE in source:
        return AnswerParser(Harmony())
    begin, end = next((pair for pair in PAIRS if pair[0] in source), PAIRS[0])
    return AnswerParser(_content(source, tools), Thinking(begin, end, prompt.rstrip().endswith(begin)))


def _content(source: str, tools: Collection[str]) -> Content:
    if tools and MISTRAL_BEGIN in source:
        return Mistral()
    if tools and BEGIN in source:
        return Hermes()
    if tools and (TAG in source or ("<|eot_id|>" in source and '"parameters"' in source)):
        return Llama3(tools)
    return PlainContent()
