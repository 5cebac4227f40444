"""Conversations: messages to a prompt, and an answer's pieces to text, reasoning and tool calls."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from lepton_edge.errors import LeptonError, RequestError
from lepton_edge.generate.params import SamplingParams
from lepton_edge.generate.shared import Sequence
from lepton_edge.generate.stream import stream
from lepton_edge.text.chat import ChatTemplate, ChatTemplates, read_documents, read_messages, read_tools
from lepton_edge.text.chat.messages import plain
from lepton_edge.text.chat.parse import AnswerParser, ToolCall, parser_for

if TYPE_CHECKING:
    from lepton_edge.text import Tokenizer

__all__ = ["Answer", "ChatPiece", "ChatPrompt", "ChatPrompts", "ToolCall", "answer"]

PROBE = "Lepton probe 7"  # an answer whose end is looked for in the rendered text

ChatFinishReason = Literal["stop", "tool_calls", "length", "cancelled"]


@dataclass(frozen=True)
class ChatPiece:
    """One step of an answer: a token and what is certain with it.

    Attributes:
        text: of the answer; never a part of a marker.
        reasoning: what the model thinks before it answers.
        tool_calls: those that are complete with this token.
        token: the token's id; None when a request was cancelled before it had one.
        logprob: the token's log-probability under the model; None without a token.
        finish_reason: on the last piece 'stop', 'tool_calls' (it stopped, and the answer has some), 'length' or
            'cancelled'; None before.
    """

    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    token: int | None
    logprob: float | None
    finish_reason: ChatFinishReason | None


@dataclass(frozen=True)
class Answer:
    """A whole answer; its fields are those of its pieces, joined."""

    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: ChatFinishReason | None

    @classmethod
    def of(cls, pieces: Iterable[ChatPiece]) -> Answer:
        """The answer that consists of these pieces; finish_reason is None if the last one is missing."""
        parts = list(pieces)
        return cls(
            "".join(piece.text for piece in parts),
            "".join(piece.reasoning for piece in parts),
            tuple(call for piece in parts for call in piece.tool_calls),
            parts[-1].finish_reason if parts else None,
        )

    @property
    def message(self) -> dict[str, Any]:
        """The answer as a message, to be added to the conversation before the next turn."""
        made: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.reasoning:
            made["reasoning_content"] = self.reasoning
        if self.tool_calls:
            made["tool_calls"] = [
                {
                    **({"id": call.id} if call.id else {}),
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in self.tool_calls
            ]
        return made


@dataclass(frozen=True)
class ChatPrompt:
    """A conversation, ready for the model.

    Attributes:
        text: the rendered conversation, up to where the answer begins.
        ids: its tokens.
        parser: reads the answer.
        ends: tokens that end the answer, besides the tokenizer's own.
    """

    text: str
    ids: list[int]
    parser: AnswerParser
    ends: frozenset[int]


class ChatPrompts:
    """Makes prompts with the templates of a model folder.

    Raises:
        TemplateError: the folder has a damaged template.
        MachineError: jinja2 is missing.
    """

    def __init__(self, folder: Path, tokenizer: Tokenizer) -> None:
        self._templates = ChatTemplates(folder)
        self._tokenizer = tokenizer
        self._turn_ends: dict[str, str | None] = {}

    def make(
        self, messages: Any, tools: Any = None, documents: Any = None, template: str | None = None, values: Any = None
    ) -> ChatPrompt:
        """The prompt for the next answer; arguments as of `Model.chat`.

        Raises:
            RequestError: the arguments are wrong, or the template refuses them.
            TemplateError: there is no template, or it failed.
        """
        checked, schemas, papers = read_messages(messages), read_tools(tools), read_documents(documents)
        if checked[-1]["role"] == "assistant":
            raise RequestError("the last message is the assistant's; expected one to be answered, from user or tool")
        if template is not None and not isinstance(template, str):
            raise RequestError(f"template is {template!r}; expected the name of a template, or None")
        options = {} if values is None else plain(values, "template_values")
        if not isinstance(options, dict):
            raise RequestError(f"template_values is {values!r}; expected a dict, such as {{'enable_thinking': False}}")
        chosen = self._templates.get(template, tools=schemas is not None)
        text = chosen.render(checked, schemas, papers, values={**self._templates.special_tokens, **options})
        names = [tool.get("function", tool)["name"] for tool in schemas or ()]
        parser = parser_for(chosen.source, names, text)
        # Special tokens are in the text: the template writes them.
        return ChatPrompt(text, self._tokenizer.encode(text, special=False), parser, self._ends(chosen, parser))

    def _ends(self, template: ChatTemplate, parser: AnswerParser) -> frozenset[int]:
        """The token that follows an assistant's message in this template, and those that end answers of its format."""
        if template.where not in self._turn_ends:
            self._turn_ends[template.where] = self._turn_end(template)
        strings = parser.ends | ({self._turn_ends[template.where]} - parser.markers)
        ids = (self._tokenizer.added_id(string) for string in strings if string is not None)
        return frozenset(token_id for token_id in ids if token_id is not None)

    def _turn_end(self, template: ChatTemplate) -> str | None:
        messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": PROBE}]
        try:
            text = template.render(messages, add_generation_prompt=False, values=self._templates.special_tokens)
        except LeptonError:
            return None
        _, found, rest = text.rpartition(PROBE)
        ids = self._tokenizer.encode(rest.lstrip(), special=False) if found else []
        string = self._tokenizer.token(ids[0]) if ids else None
        return string if string is not None and rest.lstrip().startswith(string) else None


def answer(
    sequence: Sequence,
    tokenizer: Tokenizer,
    prompt: ChatPrompt,
    ids: NDArray[np.int32],
    params: SamplingParams,
) -> Generator[ChatPiece, None, None]:
    """The answer's pieces, one for each token.

    Args:
        sequence: a new one; it is closed at the end.
        tokenizer: for the text and the end tokens.
        prompt: as `ChatPrompts.make` gives it, for one answer.
        ids: int32 [T], its tokens, checked.
        params: how to choose, when to stop.
    """
    parser, called = prompt.parser, False
    with closing(stream(sequence, tokenizer, ids, params, prompt.ends, parser.markers)) as pieces:
        for piece in pieces:
            part = parser.push(piece.text)
            called = called or bool(part.calls)
            reason: ChatFinishReason | None = piece.finish_reason
            if reason is not None:
                rest = parser.flush()
                called = called or bool(rest.calls)
                part = part + rest
                if called and reason == "stop":
                    reason = "tool_calls"
            yield ChatPiece(part.text, part.reasoning, part.calls, piece.token, piece.logprob, reason)
