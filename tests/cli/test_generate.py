"""`lepton generate`, with a model that says what the test wants."""

import io
import json
import sys
from types import SimpleNamespace

import pytest

import lepton_edge
from lepton_edge.cli import main
from lepton_edge.errors import RequestError


class FakeModel:
    """Streams the given texts, with token ids 0, 1, 2…; raises where a text is an exception."""

    def __init__(self, texts) -> None:
        self.texts = texts
        self.asked: dict = {}
        self.closed = False
        self.spec = SimpleNamespace(encoder=None)
        self.tokenizer = SimpleNamespace(encode=lambda text: text.split())

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self.closed = True

    def stream(self, prompt, **sampling):
        self.asked = {"prompt": prompt, **sampling}
        for token, text in enumerate(self.texts):
            if isinstance(text, BaseException):
                raise text
            last = token == len(self.texts) - 1
            yield SimpleNamespace(text=text, token=token, logprob=-1.0, finish_reason="length" if last else None)


@pytest.fixture
def fake(monkeypatch):
    """Puts a FakeModel in the place of `lepton_edge.load`; its arguments go to model.loaded."""

    def install(*texts) -> FakeModel:
        model = FakeModel(texts)

        def load(path=None, **options):
            model.loaded = {"path": path, **options}
            return model

        monkeypatch.setattr(lepton_edge, "load", load, raising=False)
        return model

    return install


def test_prompt_and_pieces_go_to_stdout(fake, capsys) -> None:
    model = fake(" there", " was", "")
    assert main(["generate", "Once"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "Once there was\n"
    assert captured.err == ""
    assert model.closed
    assert model.asked == {"prompt": "Once"}
    assert model.loaded["path"] is None


def test_nothing_is_shown_of_a_wrong_request(fake, capsys, monkeypatch) -> None:
    model = fake("x")

    def refuse(prompt, **sampling):
        raise RequestError("no")

    monkeypatch.setattr(model, "stream", refuse)
    assert main(["generate", "Once"]) == 2
    assert capsys.readouterr() == ("", "lepton: error: no\n")


def test_flags_reach_the_model(fake, capsys) -> None:
    model = fake("x")
    flags = "-m folder -n 5 -t 2 -c 64 -s 7 --temp 0.5 --top-k 3 --top-p 0.9 --min-p 0.1 --repeat-penalty 1.1"
    how = "--stop a --stop b --format q8 --isa avx2 --device cuda"
    assert main(["generate", *flags.split(), *how.split(), "hi"]) == 0
    expected = {"path": "folder", "format": "q8", "threads": 2, "isa": "avx2", "kv_dtype": None, "context": 64,
                "device": "cuda"}  # fmt: skip
    assert model.loaded == expected
    assert model.asked == {
        "prompt": "hi", "max_tokens": 5, "temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.1,
        "repeat_penalty": 1.1, "seed": 7, "stop": ["a", "b"],
    }  # fmt: skip


def test_json_is_one_object(fake, capsys) -> None:
    fake(" a", " é")
    assert main(["generate", "--json", "one two"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["text"], result["tokens"], result["finish_reason"]) == (" a é", [0, 1], "length")
    assert result["prompt_tokens"] == 2
    assert set(result["timings"]) == {"load_s", "prompt_s", "prompt_tok_s", "generate_s", "generate_tok_s"}


def test_the_prompt_can_be_left_out_and_speeds_shown(fake, capsys) -> None:
    fake(" a", " b")
    assert main(["generate", "--no-display-prompt", "-v", "one"]) == 0
    captured = capsys.readouterr()
    assert captured.out == " a b\n"
    assert captured.err.startswith("load ") and captured.err.count("tok/s") == 2


def test_a_prompt_from_stdin(fake, capsys, monkeypatch) -> None:
    model = fake("!")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("naïve\n".encode())))
    assert main(["generate", "-"]) == 0
    assert model.asked["prompt"] == "naïve\n"


def test_bytes_that_are_no_text_are_refused(fake, capsys, monkeypatch) -> None:
    fake("!")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"ab\xff")))
    assert main(["generate", "-"]) == 2
    assert "stdin: byte 2 is not UTF-8" in capsys.readouterr().err
    assert main(["generate", "a\udcff"]) == 2
    assert "PROMPT: byte 1 is not UTF-8" in capsys.readouterr().err


def test_ctrl_c_ends_the_line(fake, capsys) -> None:
    model = fake(" a", KeyboardInterrupt())
    assert main(["generate", "Once"]) == 130
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("Once a\n", "")
    assert model.closed
