"""Adapters of a loaded model: by request, by choice, beside each other, while requests run; and the command line."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_engine import FakeEngine
from golden.adapters import BY_NAME, write_adapter
from golden.recipe import write_folder

import lepton_edge
from lepton_edge.errors import CheckpointError, RequestError, UnsupportedModelError
from lepton_edge.generate.kept import KeptSequences
from lepton_edge.generate.shared import SharedEngine

CASE = BY_NAME["patterns"]
OTHER = replace(CASE, name="other")  # the same places, other numbers
PROMPT = "w5 w9 w40"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapters")
    write_folder(CASE.base, path / "base")
    (path / "base" / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }} {% endfor %}")
    write_adapter(CASE, path / "a")
    write_adapter(OTHER, path / "b")
    return path


@pytest.fixture
def model(folders: Path) -> Iterator[lepton_edge.Model]:
    with lepton_edge.load(folders / "base", threads=1) as model:
        model.load_adapter(folders / "a", "a")
        model.load_adapter(str(folders / "b"), "b")
        yield model


def test_by_request_and_by_choice(model: lepton_edge.Model) -> None:
    ids = [1, 5, 9, 40]
    none, a, b = (model.logits(ids, adapter=name) for name in (None, "a", "b"))
    assert min(np.abs(x - y).max() for x, y in ((none, a), (none, b), (a, b))) > 0.1
    assert model.adapters == ["a", "b"]
    np.testing.assert_array_equal(model.logits(ids), none)
    model.use_adapter("b")
    np.testing.assert_array_equal(model.logits(ids), b)
    np.testing.assert_array_equal(model.logits(ids, adapter=None), none)
    text = model.generate(PROMPT, max_tokens=12)
    model.use_adapter(None)
    assert text == model.generate(PROMPT, max_tokens=12, adapter="b") != model.generate(PROMPT, max_tokens=12)


def test_what_is_unloaded_serves_running_requests_to_their_end(model: lepton_edge.Model, folders: Path) -> None:
    whole = model.generate(PROMPT, max_tokens=12, adapter="a")
    stream = model.stream(PROMPT, max_tokens=12, adapter="a")
    pieces = [next(stream).text]
    model.use_adapter("a")
    model.unload_adapter("a")
    assert model.adapters == ["b"]
    assert model.generate(PROMPT, max_tokens=12) == model.generate(PROMPT, max_tokens=12, adapter=None)
    model.load_adapter(folders / "b", "a")
    assert "".join([*pieces, *(piece.text for piece in stream)]) == whole


def test_requests_beside_each_other(model: lepton_edge.Model, folders: Path) -> None:
    """Three threads, each with its own adapter or none, while others come and go: every text as if alone."""
    names = (None, "a", "b")
    expected = {name: model.generate(PROMPT, max_tokens=40, adapter=name) for name in names}
    found: list[tuple[str | None, str]] = []

    def work(name: str | None) -> None:
        for _ in range(3):
            found.append((name, model.generate(PROMPT, max_tokens=40, adapter=name)))

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for i in range(3):
        model.load_adapter(folders / "a", f"more {i}")
        model.unload_adapter(f"more {i}")
    for thread in threads:
        thread.join()
    assert sorted(found, key=str) == sorted([(name, expected[name]) for name in names] * 3, key=str)


def test_an_encoder_takes_none(folders: Path) -> None:
    """It would go on without: its tasks run the model alone."""
    with lepton_edge.load("sms_spam", threads=1) as model:
        with pytest.raises(UnsupportedModelError, match="adapters for bert models, which are encoders"):
            model.load_adapter(folders / "a", "a")
        assert model.adapters == []


def test_errors_change_nothing(model: lepton_edge.Model, folders: Path, tmp_path: Path) -> None:
    before = model.logits([1, 2, 3], adapter="a")
    bad = write_adapter(CASE, tmp_path, rank_pattern={})
    with pytest.raises(CheckpointError, match="does not fit"):
        model.load_adapter(bad, "bad")
    with pytest.raises(RequestError, match="'a' is loaded already"):
        model.load_adapter(folders / "b", "a")
    for wrong in ("", 3):
        with pytest.raises(RequestError, match="expected a name"):
            model.load_adapter(folders / "b", wrong)  # type: ignore[arg-type]
    for call in (model.use_adapter, model.unload_adapter, lambda name: model.logits([1], adapter=name),
                 lambda name: model.stream(PROMPT, adapter=name)):  # fmt: skip
        with pytest.raises(RequestError, match=r"no adapter 'bad'; loaded are: a, b"):
            call("bad")
    assert model.adapters == ["a", "b"]
    np.testing.assert_array_equal(model.logits([1, 2, 3], adapter="a"), before)


def test_a_kept_conversation_is_another_with_another_adapter() -> None:
    """What one adapter left in the cache is of no use to another, and goes when that one is unloaded."""
    kept, one, two = KeptSequences(100), object(), object()
    kept.put(7, [1, 2, 3], one)  # type: ignore[arg-type]
    prompt = np.array([1, 2, 3, 4], np.int32)
    assert kept.take(prompt) is None and kept.take(prompt, two) is None  # type: ignore[arg-type]
    assert kept.take(prompt, one) == (7, [1, 2, 3])  # type: ignore[arg-type]
    kept.put(7, [1, 2, 3], one)  # type: ignore[arg-type]
    kept.put(8, [1, 2, 3])
    assert kept.drop(one) == [7] and kept.take(prompt) == (8, [1, 2, 3])  # type: ignore[arg-type]


def test_a_sequence_that_outlives_its_adapter_is_not_kept() -> None:
    engine = FakeEngine.chain(1, 2, 3, vocab=8)
    engine.add_adapter = lambda adapter: object()  # type: ignore[attr-defined]
    shared = SharedEngine(engine)  # type: ignore[arg-type]
    shared.add_adapter("a", lambda: None)  # type: ignore[arg-type, return-value]
    sequence = shared.begin(keep=True, adapter="a")
    sequence.open()
    sequence.feed(np.array([1, 2], np.int32), np.empty(0, np.int32))
    shared.remove_adapter("a")
    sequence.close()
    assert not engine.slots


def test_the_command_line(model: lepton_edge.Model, folders: Path, tmp_path: Path) -> None:
    def lepton(*arguments: str, typed: str = "") -> str:
        command = [sys.executable, "-m", "lepton_edge", *arguments]
        return subprocess.run(command, input=typed, capture_output=True, text=True, timeout=300, check=True).stdout

    expected = PROMPT + model.generate(PROMPT, max_tokens=12, adapter="a") + "\n"
    flags = ["-n", "12", PROMPT]
    base, adapter, out = str(folders / "base"), str(folders / "a"), str(tmp_path / "out")
    assert lepton("generate", "-m", base, "--adapter", adapter, *flags) == expected
    answer = model.chat([{"role": "user", "content": PROMPT}], max_tokens=9, adapter="a").text
    assert answer != model.chat([{"role": "user", "content": PROMPT}], max_tokens=9, adapter=None).text
    assert lepton("chat", "-m", base, "--adapter", adapter, "-n", "9", typed=PROMPT + "\n") == answer + "\n"
    assert lepton("merge", base, adapter, out) == f"{out}: 26 tensors of the adapter are in the weights\n"
    assert lepton("generate", "-m", out, *flags) == expected
