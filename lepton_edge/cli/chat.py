"""Talk with a model.

Messages are read line by line from the terminal or from stdin; a line that ends in a backslash goes on in the next one.
The answer is written to stdout as it comes. Nothing of the conversation is kept, unless /save is told to.
"""

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_edge.cli.chat_session import Session
from lepton_edge.cli.options import (
    ENGINE,
    SAMPLING,
    add_adapter_option,
    add_model_options,
    add_sampling_options,
    given,
    use_adapter,
)
from lepton_edge.cli.output import CONTROLS
from lepton_edge.errors import LeptonError, RequestError

if TYPE_CHECKING:
    from lepton_edge.api import Model
    from lepton_edge.generate.chat import ChatPiece

HELP = """\
/help            this list
/clear           begin again; the system message stays
/system [TEXT]   show the system message, or set it; '/system -' removes it
/save FILE       write the conversation to FILE, as JSON
/load FILE       go on with a saved conversation
/quit            quit, as does Ctrl-D
Ctrl-C stops an answer. A line that ends in \\ goes on in the next one.
A message that begins with / needs a space before it."""

DIM, NORMAL = "\x1b[2m", "\x1b[0m"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options; llama.cpp's short flags where it has them."""
    add_model_options(parser)
    add_adapter_option(parser)
    parser.add_argument("--system", metavar="TEXT", help="the system message")
    parser.add_argument("--template", metavar="NAME", help="one of the folder's chat templates")
    parser.add_argument(
        "--template-value",
        action="append",
        default=[],
        metavar="NAME=JSON",
        help="tell the template something, such as enable_thinking=false",
    )
    add_sampling_options(parser)
    parser.add_argument("-v", "--verbose", action="store_true", help="report speeds on stderr")


def run(arguments: argparse.Namespace) -> int:
    """Answers one message after the other, until there are no more."""
    import lepton_edge
    from lepton_edge.embedded import model_folder
    from lepton_edge.text.chat import ChatTemplates

    values = dict(map(_template_value, arguments.template_value))
    ChatTemplates(model_folder(arguments.model)).get(arguments.template)  # before the weights are read
    with lepton_edge.load(arguments.model, **{name: getattr(arguments, name) for name in ENGINE}) as model:
        use_adapter(model, arguments)
        options = {"template": arguments.template, "template_values": values, **given(arguments, SAMPLING)}
        chat = Chat(model, Session(arguments.system), options, arguments.verbose)
        if chat.interactive:
            print(f"{model.folder.name}, {model.format}, context {model.context}; /help lists the commands.")
        chat.run()
    return 0


class Chat:
    """A conversation with a model in a terminal, or from a pipe.

    Args:
        model: who answers.
        session: the messages so far.
        options: what `Model.stream_chat` is given besides.
        verbose: report speeds.
    """

    def __init__(self, model: "Model", session: Session, options: dict[str, Any], verbose: bool) -> None:
        self.interactive = sys.stdin.isatty() and sys.stdout.isatty()
        self._model = model
        self._session = session
        self._options = options
        self._verbose = verbose
        self._typing = _Typing()
        self._stopped = False
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: print(HELP),
            "/clear": lambda _: session.clear(),
            "/system": self._system,
            "/save": lambda name: session.save(_path(name)),
            "/load": lambda name: session.load(_path(name)),
        }

    def run(self) -> None:
        """Read messages and commands until the end. An error ends it only where nobody sits at the terminal."""
        if not self.interactive:
            self._follow(_piped())
            return
        before = signal.signal(signal.SIGINT, self._interrupt)
        try:
            self._follow(self._typing)
        finally:
            signal.signal(signal.SIGINT, before)

    def _interrupt(self, number: int, frame: object) -> None:
        """Ctrl-C drops a line that is being typed; else it stops the answer, also one that has not begun yet."""
        if self._typing.now:
            raise KeyboardInterrupt
        self._stopped = True
        self._model.cancel()

    def _follow(self, lines: Iterable[str]) -> None:
        for message in _joined(lines):
            word, _, rest = message.partition(" ")
            if word in ("/quit", "/exit"):
                return
            try:
                if message.startswith("/"):
                    self._command(word, rest.strip())
                elif message.strip():
                    self._answer(message.strip())
            except LeptonError as error:
                if not self.interactive:
                    raise
                print(f"error: {' '.join(str(error).split())}", flush=True)
            self._stopped = False

    def _command(self, word: str, rest: str) -> None:
        if word not in self._commands:
            raise RequestError(f"{word} is no command; /help lists them; to say it, put a space before it")
        self._commands[word](rest)

    def _system(self, text: str) -> None:
        if text:
            self._session.system = None if text == "-" else text
        else:
            print(self._session.system or "There is no system message.")

    def _answer(self, text: str) -> None:
        """Ask, show the answer as it comes, and add both to the conversation; neither, if no answer began."""
        from lepton_edge.generate.chat import Answer

        messages = [*self._session.messages, {"role": "user", "content": text}]
        pieces: list[ChatPiece] = []
        screen = _Screen(self.interactive)
        started = first = time.perf_counter()
        try:
            for piece in self._model.stream_chat(messages, **self._options):
                first = first if pieces else time.perf_counter()
                pieces.append(piece)
                screen.show(piece)
                if self._stopped:
                    self._model.cancel()
        finally:
            screen.end(pieces[-1].finish_reason if pieces else None)
        answer = Answer.of(pieces)
        if answer.text or answer.reasoning or answer.tool_calls:
            self._session.messages = [*messages, answer.message]
        if self._verbose:
            ended = time.perf_counter()
            speed = (len(pieces) - 1) / (ended - first) if ended > first else 0.0
            waited = f"first token after {first - started:.2f} s"
            print(f"{waited}; {len(pieces)} tokens, {speed:.1f} tok/s", file=sys.stderr)


class _Screen:
    """Shows an answer: its reasoning dim, and in a terminal only; without what could control the terminal."""

    def __init__(self, interactive: bool) -> None:
        self._interactive = interactive
        colours = interactive and os.name != "nt" and "NO_COLOR" not in os.environ
        self._dim, self._normal = (DIM, NORMAL) if colours else ("", "")
        self._reasoned = False

    def show(self, piece: "ChatPiece") -> None:
        """A part of the answer."""
        if piece.reasoning and self._interactive:
            self._write(self._dim + piece.reasoning.translate(CONTROLS) + self._normal)
            self._reasoned = True
        if piece.text and self._reasoned:
            self._write("\n\n")
            self._reasoned = False
        text = piece.text + "".join(f"[call {call.name} {call.arguments}]" for call in piece.tool_calls)
        if text:
            self._write(text.translate(CONTROLS) if self._interactive else text)

    def end(self, reason: str | None) -> None:
        """The answer's end, and why it ended, if that is not the model's wish."""
        notes = {"cancelled": "stopped", "length": "cut: -n or the context is used up"}
        note = notes.get(reason or "")
        print(f" {self._dim}[{note}]{self._normal}" if note and self._interactive else "", flush=True)

    def _write(self, text: str) -> None:
        print(text, end="", flush=True)


class _Typing:
    """Lines from the terminal, with line editing and the history of this conversation; Ctrl-C drops a line.

    now: whether a line is being typed.
    """

    def __init__(self) -> None:
        self.now = False

    def __iter__(self) -> Iterator[str]:
        with contextlib.suppress(ImportError):  # the Windows console has its own
            import readline  # noqa: F401 - input() uses it
        while True:
            try:
                self.now = True
                line = input("> ")
                self.now = False
            except KeyboardInterrupt:
                self.now = False
                print("\n(Ctrl-D quits)")
            except EOFError:
                self.now = False
                print()
                return
            else:
                yield line


def _piped() -> Iterator[str]:
    """Lines from stdin."""
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            yield line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            raise RequestError(f"stdin: line {number} is not UTF-8; expected UTF-8 text; convert it first") from None


def _joined(lines: Iterable[str]) -> Iterator[str]:
    """Messages: a line that ends in a backslash goes on in the next one."""
    held: list[str] = []
    for line in lines:
        if line.endswith("\\"):
            held.append(line[:-1])
            continue
        yield "\n".join([*held, line])
        held = []
    if held:
        yield "\n".join(held)


def _path(name: str) -> Path:
    if not name:
        raise RequestError("expected the name of a file after the command")
    return Path(os.path.expanduser(name))


def _template_value(text: str) -> tuple[str, Any]:
    import json

    name, equals, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        hint = "a JSON value after '='" if equals else "NAME=JSON"
        raise RequestError(f"--template-value is {text!r}; expected {hint}, such as enable_thinking=false") from None
