"""`lepton chat`: from a pipe with a model that says what the test wants, and in a terminal with a real one."""

import errno
import io
import json
import os
import select
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import stories_chat
from processes import environment

import lepton_edge
from lepton_edge.cli import main
from lepton_edge.cli.chat import HELP
from lepton_edge.cli.chat_session import Session
from lepton_edge.errors import RequestError
from lepton_edge.generate.chat import ChatPiece, ToolCall

pytest.importorskip("jinja2", reason="needs the extra 'chat'")


def piece(text: str = "", reasoning: str = "", calls=(), reason=None) -> ChatPiece:
    return ChatPiece(text, reasoning, calls, 5, -1.0, reason)


class FakeModel:
    """Answers with the given lists of pieces, in turn; raises what is an exception."""

    def __init__(self, *answers) -> None:
        self.answers = list(answers)
        self.asked: list[list[dict]] = []
        self.folder, self.format, self.context = Path("fake"), "q8", 99

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        pass

    def stream_chat(self, messages, **options):
        self.asked.append(messages)
        self.options = options
        for item in self.answers.pop(0):
            if isinstance(item, BaseException):
                raise item
            yield item


@pytest.fixture
def talk(tmp_path, monkeypatch, capsys):
    """Runs the verb with `typed` on stdin; -> exit code, stdout, stderr."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "chat_template.jinja").write_text("x")

    def run(model: FakeModel, typed: str | bytes, *flags: str):
        def load(path, **options):
            model.loaded = options
            return model

        monkeypatch.setattr(lepton_edge, "load", load, raising=False)
        data = typed.encode() if isinstance(typed, str) else typed
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        code = main(["chat", "-m", str(tmp_path), *flags])
        captured = capsys.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err)

    return run


HI = [piece("H"), piece("i.", reason="stop")]
YES = [piece("", "Hm"), piece("Yes."), piece(reason="stop")]


def test_every_line_of_a_pipe_is_answered(talk) -> None:
    model = FakeModel(HI, YES)
    done = talk(model, "Hello\n\nAnd\\\nnow?\n", "--system", "Be terse.", "-s", "3", "--temp", "0.5")
    assert (done.code, done.out, done.err) == (0, "Hi.\nYes.\n", "")
    system, hello = {"role": "system", "content": "Be terse."}, {"role": "user", "content": "Hello"}
    assert model.asked[0] == [system, hello]
    assert model.asked[1] == [
        system, hello, {"role": "assistant", "content": "Hi."}, {"role": "user", "content": "And\nnow?"}
    ]  # fmt: skip
    assert model.options == {"template": None, "template_values": {}, "seed": 3, "temperature": 0.5}


def test_a_line_without_its_end_is_a_message(talk) -> None:
    model = FakeModel(HI, HI)
    assert talk(model, "a\nb\\").out == "Hi.\nHi.\n"
    assert [asked[-1]["content"] for asked in model.asked] == ["a", "b"]


def test_commands(talk, tmp_path) -> None:
    saved = tmp_path / "talk.json"
    model = FakeModel(HI, HI, HI, HI)
    typed = ["/help", "/system", "/system Be", "/system", "a", f"/save {saved}", "/clear", "b", f"/load {saved}", "c",
             "/system -", " /d", "/quit", "e"]  # fmt: skip
    done = talk(model, "\n".join(typed))
    assert done.code == 0 and done.out == HELP + "\nThere is no system message.\nBe\nHi.\nHi.\nHi.\nHi.\n"
    assert [[m["content"] for m in asked] for asked in model.asked] == [
        ["Be", "a"], ["Be", "b"], ["Be", "a", "Hi.", "c"], ["a", "Hi.", "c", "Hi.", "/d"]
    ]  # fmt: skip
    assert all(len(line) <= 80 for line in HELP.split("\n"))


def test_reasoning_stays_in_the_conversation_and_out_of_a_pipe(talk, tmp_path) -> None:
    call = (ToolCall("f", {"x": 1}),)
    model = FakeModel(YES, [piece("Ok", calls=call, reason="tool_calls")])
    saved = tmp_path / "talk.json"
    assert talk(model, f"a\nb\n/save {saved}").out == "Yes.\nOk[call f {'x': 1}]\n"
    messages = json.loads(saved.read_text())["messages"]
    assert messages[1] == {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm"}
    assert messages[3]["tool_calls"] == [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("/nope\n", "/nope is no command; /help lists them"),
        ("/save\n", "expected the name of a file"),
        ("/load /no/such/file\n", "/no/such/file: cannot be read (No such file or directory)"),
        (b"ab\nc\xff\n", "stdin: line 2 is not UTF-8"),
    ],
)
def test_errors_end_a_pipe(talk, typed, said: str) -> None:
    done = talk(FakeModel(HI, HI), typed)
    assert done.code == 2 and said in done.err and done.err.count("\n") == 1


def test_an_error_of_the_model_ends_a_pipe(talk) -> None:
    done = talk(FakeModel(HI, [piece("x"), RequestError("too long")]), "a\nb\nc\n")
    assert (done.code, done.out) == (2, "Hi.\nx\n") and "too long" in done.err


def test_template_values(talk) -> None:
    model = FakeModel(HI)
    flags = ["--template-value", "enable_thinking=false", "--template-value", 'style="short"', "--template", "default"]
    assert talk(model, "a", *flags).code == 0
    assert model.options["template_values"] == {"enable_thinking": False, "style": "short"}
    for wrong in ("x", "x=y", "x="):
        assert "--template-value is" in talk(model, "a", "--template-value", wrong).err


def test_a_model_without_a_template_is_refused_before_it_is_loaded(talk, tmp_path) -> None:
    model = FakeModel(HI)
    (tmp_path / "chat_template.jinja").unlink()
    assert "has no chat template" in talk(model, "a").err and not hasattr(model, "loaded")


def test_ctrl_c_ends_a_pipe(talk) -> None:
    done = talk(FakeModel([piece("a"), KeyboardInterrupt()]), "x\ny\n")
    assert (done.code, done.out) == (130, "a\n")


# Session files


def test_a_session_comes_back(tmp_path) -> None:
    session = Session("Be\n\"terse\" é.")
    session.messages += [{"role": "user", "content": "a"}, {"role": "assistant", "content": "\ud800"}]
    session.save(tmp_path / "x.json")
    other = Session("old")
    other.load(tmp_path / "x.json")
    assert other.messages == session.messages and other.system == "Be\n\"terse\" é."
    empty = Session()
    empty.save(tmp_path / "x.json")
    other.load(tmp_path / "x.json")
    assert other.messages == [] and [file.name for file in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not a JSON object"),
        ("[" * 100_000, "is not a JSON object"),
        ("[]", "is not a JSON object"),
        ("{}", 'has no "lepton_chat": 1'),
        ('{"lepton_chat": 2, "messages": []}', 'has no "lepton_chat": 1'),
        ('{"lepton_chat": 1, "messages": {}}', 'has no "lepton_chat": 1'),
        ('{"lepton_chat": 1, "messages": [{"role": "x", "content": "y"}]}', "is no conversation: .* has the role 'x'"),
    ],
)
def test_damaged_session_files(tmp_path, text: str, said: str) -> None:
    (tmp_path / "x.json").write_text(text)
    session = Session("kept")
    with pytest.raises(RequestError, match=said):
        session.load(tmp_path / "x.json")
    assert session.system == "kept"


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path, monkeypatch) -> None:
    (tmp_path / "x.json").write_text("old")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RequestError, match="No space left"):
        Session("x").save(tmp_path / "x.json")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]
    with pytest.raises(RequestError, match="cannot be written"):
        Session("x").save(tmp_path / "none" / "x.json")


# In a terminal

pytestmark_tty = pytest.mark.skipif(os.name == "nt", reason="Windows has no pty")


class Terminal:
    """A process whose terminal the test is."""

    def __init__(self, *arguments: str) -> None:
        import fcntl
        import pty
        import termios

        self._master, slave = pty.openpty()
        # So wide that readline scrolls no line sideways, which it marks with a ">".
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, 500, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lepton_edge", *arguments],
            stdin=slave, stdout=slave, stderr=slave, env=environment(TERM="dumb"), start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)
        self._unread = ""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def settle(self) -> None:
        """Wait until all that was typed has been done, by the answer to one more line."""
        self.type("/nope\n")
        self.expect("error: /nope is no command")
        self.expect("> ")

    def interrupt(self, answer: str) -> None:
        """Ctrl-C while a line is read, until `answer` is shown.

        One that comes between CPython's reading of a key and its wait for the next is seen with the next signal only.
        """
        for _ in range(20):
            self.type("\x03")
            if self.shows(answer, seconds=3):
                break
        self.expect(answer)

    def expect(self, text: str, seconds: float = 60) -> str:
        """What is shown up to and with `text`."""
        assert self.shows(text, seconds), f"{text!r} did not come, but {self._unread[-500:]!r}"
        before, _, self._unread = self._unread.partition(text)
        return before + text

    def shows(self, text: str, seconds: float) -> bool:
        """Whether `text` is shown within so many seconds."""
        ends = time.monotonic() + seconds
        while text not in self._unread:
            if not select.select([self._master], [], [], max(0.0, ends - time.monotonic()))[0]:
                return False
            try:
                data = os.read(self._master, 65536)
            except OSError:  # Linux' way of saying that the other end is closed
                data = b""
            assert data, f"it ended with {self._unread[-500:]!r}"
            self._unread += data.decode("utf-8", "replace")
        return True

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def terminal():
    opened: list[Terminal] = []

    def start(*arguments: str) -> Terminal:
        opened.append(Terminal(*arguments))
        return opened[-1]

    yield start
    for item in opened:
        item.close()


@pytestmark_tty
def test_a_conversation_in_a_terminal(terminal, tmp_path) -> None:
    folder = stories_chat.write_folder(tmp_path / "stories")
    saved = tmp_path / "talk.json"
    screen = terminal("chat", "-m", str(folder), "-s", "1", "-n", "8", "--temp", "0")
    assert "stories, q8, context 512; /help lists the commands." in screen.expect("> ")
    screen.type("The dog\n")
    first = screen.expect("[cut: -n or the context is used up]")
    assert len(first.split()) > 8
    screen.expect("> ")
    screen.type(f"/save {saved}\n")
    screen.settle()
    messages = json.loads(saved.read_text())["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"]
    assert messages[0]["content"] == "The dog" and messages[1]["content"] in first.replace("\r\n", "\n")
    screen.type("/system Be\n")
    screen.expect("> ")
    screen.type("half a line")
    screen.expect("half a line")  # the line is being read: before that, CPython sees Ctrl-C with the next key only
    screen.interrupt("(Ctrl-D quits)")
    screen.expect("> ")
    screen.type("/system\n")
    screen.expect("Be")
    screen.expect("> ")
    screen.type("\x04")  # Ctrl-D
    assert screen.process.wait(30) == 0


@pytestmark_tty
def test_ctrl_c_stops_the_answer_and_not_the_program(terminal, tmp_path) -> None:
    folder = stories_chat.write_folder(tmp_path / "stories", endless=True)
    saved = tmp_path / "talk.json"
    screen = terminal("chat", "-m", str(folder), "-s", "1")
    screen.expect("> ")
    screen.type("Once upon a time\n")
    screen.expect("Once upon a time")
    screen.expect("the")
    screen.type("\x03")
    screen.expect("[stopped]", seconds=10)
    screen.expect("> ")
    screen.type(f"/save {saved}\n")
    screen.settle()
    messages = json.loads(saved.read_text())["messages"]
    assert len(messages) == 2 and len(messages[1]["content"]) > 3, "what was said stays"
    screen.type("And then\n")
    screen.expect("And then")  # the terminal's echo: a Ctrl-C before the line is read would drop the line
    screen.expect("the")
    screen.type("\x03")
    screen.expect("[stopped]", seconds=10)
    screen.expect("> ")
    screen.type("/quit\n")
    assert screen.process.wait(30) == 0


@pytestmark_tty
def test_the_history_comes_back_with_an_arrow(terminal, tmp_path) -> None:
    pytest.importorskip("readline")
    folder = stories_chat.write_folder(tmp_path / "stories")
    screen = terminal("chat", "-m", str(folder))
    screen.expect("> ")
    screen.type("/system Remember\n")
    screen.expect("> ")
    screen.type("\x1b[A!\n")  # arrow up
    screen.expect("> ")
    screen.type("/system\n")
    screen.expect("Remember!\r\n> ")


@pytestmark_tty
def test_ctrl_c_from_a_pipe_ends_the_program(tmp_path) -> None:
    folder = stories_chat.write_folder(tmp_path / "stories", endless=True)
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "lepton_edge", "chat", "-m", str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stdin.write(b"Once upon a time\n")
    process.stdin.close()
    process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    process.stdout.read()
    assert process.wait(timeout=30) == 130
    assert process.stderr.read() == b""
