"""tools/gguf_tokenizer.py: llama.cpp's own vectors for the vocabularies that are there, and damaged files."""

import json
import struct
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import small_tokenizers
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import gguf_tokenizer  # noqa: E402

from lepton_edge.errors import TokenizerError  # noqa: E402
from lepton_edge.text import Tokenizer  # noqa: E402

VOCABULARIES = ("bert-bge", "deepseek-coder", "deepseek-llm", "falcon", "gpt-2", "llama-spm", "mpt", "phi-3", "refact",
                "starcoder")  # fmt: skip
# Vectors without their GGUF, whose vocabulary lies in another folder.
ELSEWHERE = {"qwen2": ("qwen2.5", {}), "llama-bpe": ("llama3", {"config.json": {"model_type": "llama"}})}


def vectors(shared: Path, name: str) -> list[tuple[str, list[int]]]:
    """Texts and their ids: the texts with a separating line between them, the ids of each on a line."""
    file = shared / "gguf_vocab" / f"ggml-vocab-{name}.gguf.inp"
    texts = file.read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    lines = file.with_suffix(".out").read_text(encoding="utf-8").split("\n")
    assert len(texts) == len(lines) == 47
    return [(text, [int(number) for number in line.split()]) for text, line in zip(texts, lines, strict=True)]


@pytest.mark.parametrize(("name", "of"), [*((name, name) for name in VOCABULARIES), ("gpt-neox", "mpt")])
def test_vectors(name: str, of: str, shared: Path) -> None:
    """gpt-neox has no vectors of its own, nor the key `pre`; its vocabulary is that of mpt."""
    backend, _ = gguf_tokenizer.tokenizer_of(shared / "gguf_vocab" / f"ggml-vocab-{name}.gguf")
    for text, ids in vectors(shared, of):
        assert backend.encode(text, add_special_tokens=False).ids == ids, text


@pytest.mark.parametrize("name", ELSEWHERE)
def test_vectors_of_a_folder(name: str, shared: Path, tmp_path: Path) -> None:
    folder, files = ELSEWHERE[name]
    tokenizer = Tokenizer.load(small_tokenizers.without_json(shared / "tokenizers" / folder, tmp_path, files))
    for text, ids in vectors(shared, name):
        assert tokenizer.encode(text, special=False) == ids, text


def test_every_vocabulary_with_vectors_is_tested(shared: Path) -> None:
    folder = shared / "gguf_vocab"
    there = {path.stem.removeprefix("ggml-vocab-") for path in folder.glob("*.gguf") if Path(f"{path}.inp").is_file()}
    assert there == set(VOCABULARIES)


def gguf(values: dict[str, object]) -> bytes:
    """A GGUF file of version 3 without tensors; numbers are uint32, or float32, or bools."""

    def string(text: str) -> bytes:
        return struct.pack("<Q", len(text.encode())) + text.encode()

    def value(item: object) -> tuple[int, bytes]:
        if isinstance(item, list):
            kinds = [value(one) for one in item]
            return 9, struct.pack("<IQ", kinds[0][0], len(item)) + b"".join(raw for _, raw in kinds)
        if isinstance(item, str):
            return 8, string(item)
        if isinstance(item, bool):
            return 7, struct.pack("<?", item)
        return (4, struct.pack("<I", item)) if isinstance(item, int) else (6, struct.pack("<f", item))  # type: ignore[arg-type]

    parts = [b"GGUF", struct.pack("<IQQ", 3, 0, len(values))]
    for name, item in values.items():
        kind, raw = value(item)
        parts += string(name), struct.pack("<I", kind), raw
    return b"".join(parts)


def spm() -> dict[str, object]:
    """A SentencePiece vocabulary of bytes and a few pieces."""
    tokens = ["<unk>", "<s>", "</s>", *small_tokenizers.BYTES, "▁", "t", "h", "e", "th", "the", "▁the", "<x>"]
    types = [2, 3, 3, *[6] * 256, *[1] * 7, 4]
    scores = [-float(i) for i in range(len(tokens))]
    values = {"model": "llama", "tokens": tokens, "token_type": types, "scores": scores, "bos_token_id": 1,
              "eos_token_id": 2, "unknown_token_id": 0, "add_bos_token": True}  # fmt: skip
    return {f"tokenizer.ggml.{name}": value for name, value in values.items()}


def test_the_command_writes_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.gguf").write_bytes(gguf(spm()))
    monkeypatch.setattr(sys, "argv", ["gguf_tokenizer.py", str(tmp_path / "a.gguf"), str(tmp_path / "out")])
    gguf_tokenizer.main()
    tokenizer = Tokenizer.load(tmp_path / "out")
    assert [tokenizer.token(token_id) for token_id in tokenizer.encode("the<x>é")] == [
        "<s>", "▁the", "<x>", "<0xC3>", "<0xA9>",
    ]  # fmt: skip
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (1, frozenset({2}))
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert config["unk_token"] == "<unk>"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "rwkv"}, "has no tokenizer of the model llama, gpt2 or bert, but 'rwkv'"),
        ({"model": "gpt2"}, "does not say how it cuts words; expected tokenizer.ggml.pre to be one of gpt-2, mpt"),
        ({"model": "gpt2", "pre": "tekken"}, "cuts words as 'tekken', which is not known"),
        ({"token_type": [1]}, "has no tokenizer of the model"),
        ({"bos_token_id": 3000}, None),
    ],
)
def test_files_that_do_not_fit(changes: dict, reason: str | None, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(gguf(spm() | {f"tokenizer.ggml.{name}": value for name, value in changes.items()}))
    if reason is None:
        assert "bos_token" not in gguf_tokenizer.tokenizer_of(path)[1]
        return
    with pytest.raises(TokenizerError, match=reason):
        gguf_tokenizer.tokenizer_of(path)


@given(st.integers(0, 400), st.integers(0, 60), st.binary(max_size=20))
def test_damaged_files_raise_nothing_but_our_errors(start: int, cut: int, data: bytes) -> None:
    raw = bytearray(gguf(spm()))
    raw[start : start + cut] = data
    import tempfile

    with tempfile.TemporaryDirectory() as name, suppress(TokenizerError):
        path = Path(name) / "a.gguf"
        path.write_bytes(raw)
        gguf_tokenizer.tokenizer_of(path)
