"""ByT5's ids: what transformers 5.24's ByT5Tokenizer gives (it needs no file; nor does ours but for its name)."""

import json
from pathlib import Path

import pytest

from lepton_edge.errors import RequestError, TokenizerError
from lepton_edge.text import Tokenizer

IDS = {
    "héllo 日": [107, 198, 172, 111, 111, 114, 35, 233, 154, 168, 1],
    "a<extra_id_0>b <extra_id_124>": [100, 259, 101, 35, 383, 1],
    "": [1],
    "x</s>y": [123, 1, 124, 1],
    " <pad> z": [0, 125, 1],
    "a <extra_id_1> b": [100, 35, 260, 35, 101, 1],
    " a  b\r\n": [35, 100, 35, 35, 101, 16, 13, 1],
}
ADDED = {0: "<pad>", 1: "</s>", 2: "<unk>"} | {259 + i: f"<extra_id_{i}>" for i in range(125)}


@pytest.fixture(params=["bare", "saved"])
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> Tokenizer:
    """Of a folder that names the class alone, and as save_pretrained writes it."""
    config: dict = {"tokenizer_class": "ByT5Tokenizer"}
    if request.param == "saved":
        sides = {"lstrip": True, "rstrip": True}
        config |= {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "extra_ids": 0}
        config["added_tokens_decoder"] = {
            str(i): {"content": name, "special": True, "normalized": False} | (sides if i < 3 else {})
            for i, name in ADDED.items()
        }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer.load(tmp_path, 384)


def test_ids_are_those_of_transformers(tokenizer: Tokenizer) -> None:
    for text, ids in IDS.items():
        assert tokenizer.encode(text) == ids, text
    assert tokenizer.eos_ids == {1}


def test_bytes_become_text_again(tokenizer: Tokenizer) -> None:
    text = "naïve 東京 😀\n\t"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode([107, 198, 172, 259, 300, 383, 1]) == "hé"
    assert tokenizer.decode([231]) == "\N{REPLACEMENT CHARACTER}"
    stream = tokenizer.stream()
    assert "".join(stream.push(token) for token in tokenizer.encode(text)) == text


def test_every_byte_has_a_place(tokenizer: Tokenizer) -> None:
    for code in range(128):
        assert tokenizer.encode(chr(code)) == [code + 3, 1]
    text = "ab " * 333_333
    assert len(tokenizer.encode(text)) == len(text) + 1, "a megabyte"
    with pytest.raises(RequestError, match="surrogate"):
        tokenizer.encode("\ud800")


def test_other_folders_without_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    with pytest.raises(TokenizerError, match="no such file"):
        Tokenizer.load(tmp_path)
