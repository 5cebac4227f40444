"""Texts in, names out: one or several, bad ones among them, with labels of the config or the tokenizer's names."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden.recipe import _tokenizer
from golden.rnn import CONFIGS, write_folder

import lepton_edge
from lepton_edge.errors import ContextLengthError, RequestError
from lepton_edge.generate.transduce import transduce
from lepton_edge.tasks.transcribe import transcribe

LABELS = [f"sound {i}" for i in range(23)]
TEXTS = ["w5 w6 w7", "w9", "w12 w30 w5 w17"]


def folder(path: Path, **fields: Any) -> Path:
    write_folder("lstm_pair", path)
    (path / "config.json").write_text(json.dumps(CONFIGS["lstm_pair"] | fields))
    (path / "tokenizer.json").write_text(json.dumps(_tokenizer(61)))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[lepton_edge.Model]:
    labels = {str(i): label for i, label in enumerate(LABELS)}
    path = folder(tmp_path_factory.mktemp("model") / "pair", id2label=labels, max_length=20)
    with lepton_edge.load(path, threads=1) as loaded:
        yield loaded


def tokens(model: lepton_edge.Model, texts: list[str]) -> list[list[int]]:
    return transduce(model._shared, [np.array(model.tokenizer.encode(text), np.int32) for text in texts])


def test_names_of_what_is_written(model: lepton_edge.Model) -> None:
    found = transcribe(model, TEXTS)
    assert found == [[LABELS[token] for token in row] for row in tokens(model, TEXTS)]
    assert len({tuple(row) for row in found}) > 1
    assert transcribe(model, TEXTS[0]) == found[0]
    assert transcribe(model, iter(TEXTS)) == found
    assert transcribe(model, TEXTS, max_tokens=2) == [row[:2] for row in found]
    assert transcribe(model, []) == []


def test_without_labels_the_tokenizer_names_them(tmp_path: Path) -> None:
    with lepton_edge.load(folder(tmp_path / "pair"), threads=1) as model:
        expected = [[model.tokenizer.token(token) for token in row] for row in tokens(model, TEXTS)]
        assert transcribe(model, TEXTS) == expected


def test_bad_texts_lose_no_others(model: lepton_edge.Model) -> None:
    """This tokenizer makes no token of an empty text."""
    texts: list[Any] = [TEXTS[0], None, "w3 " * 21, "", "\ud800", TEXTS[1]]
    found = transcribe(model, texts, errors="return")
    assert [found[0], found[5]] == transcribe(model, TEXTS[:2])
    says = ["text 1 is None; expected a string", "text 2 has 21 tokens, but the context holds 20",
            "text 3 has no tokens", "lone surrogate"]  # fmt: skip
    for row, message in zip(found[1:5], says, strict=True):
        assert list(row) == ["error"] and message in row["error"]
    with pytest.raises(RequestError, match="text 1 is None"):
        transcribe(model, texts)
    with pytest.raises(ContextLengthError, match="the text has 21 tokens"):
        transcribe(model, "w3 " * 21)


@pytest.mark.parametrize(("arguments", "says"), [
    (dict(texts=3), "texts is 3; expected a text, or several"), (dict(errors="no"), "errors is 'no'"),
    (dict(max_tokens=0), "max_tokens"), (dict(max_tokens="9"), "max_tokens"),
])  # fmt: skip
def test_wrong_arguments(model: lepton_edge.Model, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        transcribe(model, **({"texts": TEXTS} | arguments))
