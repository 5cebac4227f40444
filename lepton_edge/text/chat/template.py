"""A chat template: the Jinja text that turns a conversation into the prompt that a model was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lepton_edge.errors import MachineError, RequestError, TemplateError

OLDEST_JINJA = (3, 1, 6)  # older ones have known ways out of the sandbox
MOST_SOURCE = 1 << 20  # bytes of a template
MOST_TEXT = 16 << 20  # characters of a prompt

Message = dict[str, Any]


class ChatTemplate:
    """A compiled template.

    Args:
        source: Jinja text.
        where: the file it comes from, for messages.
    Raises:
        TemplateError: not a Jinja template; the message has the line.
        MachineError: jinja2 is missing or too old.
    """

    def __init__(self, source: str, where: str) -> None:
        require_jinja()
        from jinja2 import Template

        from lepton_edge.text.chat.sandbox import Sandbox, budget

        self.source = source
        self.where = where
        environment = Sandbox()
        if len(source) > MOST_SOURCE:
            raise TemplateError(f"{where}: has {len(source)} characters; expected at most {MOST_SOURCE}")
        try:
            with budget():
                code = environment.compile(environment.tree(source, where, where), where, where)
        except Exception as error:  # Jinja's errors, and those of Python's compiler for what is nested too deeply
            raise TemplateError(
                f"{where}{_line(error, where)}: is not a Jinja template that can be used ({_reason(error)}); correct "
                "the template, or download it again"
            ) from error
        self._template = Template.from_code(environment, code, environment.make_globals(None))

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None = None,
        documents: Sequence[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        values: Mapping[str, Any] | None = None,
    ) -> str:
        """The conversation as text.

        Args:
            messages: as `read_messages` gives them: plain data only.
            tools, documents: as `read_tools` and `read_documents` give them; None where there are none.
            add_generation_prompt: end with the beginning of an answer.
            values: what else the template is told: the special tokens, and options such as `enable_thinking`.
        Raises:
            RequestError: the template refuses the conversation, saying why.
            TemplateError: the template is wrong, or does what the sandbox forbids; the message has the line.
        """
        from jinja2 import TemplateError as JinjaError

        from lepton_edge.text.chat.sandbox import budget

        given = {
            **(values or {}),
            "messages": messages,
            "tools": tools,
            "documents": documents,
            "add_generation_prompt": add_generation_prompt,
        }
        parts: list[str] = []
        length = 0
        try:
            with budget():
                for part in self._template.generate(given):
                    parts.append(part)
                    length += len(part)
                    if length > MOST_TEXT:
                        raise TemplateError(
                            f"{self.where}: writes more than {MOST_TEXT} characters; expected the text of a "
                            "conversation; correct the template"
                        )
        except TemplateError:
            raise
        except Exception as error:
            place = f"{self.where}{_line(error, self.where)}"
            if type(error) is JinjaError:  # raise_exception; Jinja itself raises subclasses only
                raise RequestError(
                    f"{place}: the chat template refuses these messages: {_reason(error)}; change the messages"
                ) from error
            raise TemplateError(
                f"{place}: the chat template failed ({type(error).__name__}: {_reason(error)}); expected one that "
                "renders these messages; change them, or correct the template"
            ) from error
        return "".join(parts)


def require_jinja() -> None:
    """MachineError, with the command that helps, unless a jinja2 is there that is new enough."""
    try:
        from importlib.metadata import version

        import jinja2  # noqa: F401 - its absence is the question

        found = version("jinja2")
    except ImportError:
        raise MachineError(
            "a chat needs the package jinja2, which is not installed; install it: pip install 'lepton-edge[chat]'"
        ) from None
    numbers = tuple(int(part) for part in found.split(".")[:3] if part.isdigit())
    if numbers < OLDEST_JINJA:
        raise MachineError(
            f"a chat needs jinja2 3.1.6 or newer, and {found} is installed: templates could leave its sandbox; "
            "update it: pip install -U 'lepton-edge[chat]'"
        )


def _line(error: BaseException, where: str) -> str:
    """', line 3' of the template, as far as the error tells."""
    line = getattr(error, "lineno", None)
    trace = error.__traceback__
    while trace is not None:  # Jinja gives its frames the template's lines
        if trace.tb_frame.f_code.co_filename == where:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f", line {line}" if line else ""


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
