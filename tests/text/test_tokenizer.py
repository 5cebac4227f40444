"""Loading a folder's tokenizer: special tokens, ends, and files that are damaged."""

import json
from pathlib import Path

import numpy as np
import pytest
import small_tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from lepton_edge.errors import RequestError, TokenizerError
from lepton_edge.text import Tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_tokenizers.byte_level(tmp_path / "model")


def write(folder: Path, name: str, value: object) -> None:
    (folder / name).write_text(json.dumps(value), encoding="utf-8")


def test_bos_is_added_as_the_file_says_and_never_twice(folder: Path) -> None:
    write(folder, "tokenizer_config.json", {"bos_token": "<s>", "eos_token": {"content": "</s>"}})
    tokenizer = Tokenizer.load(folder)
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (0, frozenset({1}))
    plain = tokenizer.encode("the", special=False)
    assert tokenizer.encode("the") == [0, *plain]
    assert tokenizer.encode("<s>the") == [0, *plain]
    assert tokenizer.encode("<s><s>the") == [0, 0, *plain]
    assert tokenizer.encode("<s>the", special=False) == [0, *plain]
    assert tokenizer.encode("") == [0]


def test_an_added_bos_stays_where_the_text_has_none(tmp_path: Path) -> None:
    """A template that puts BOS twice means it."""
    folder = small_tokenizers.byte_level(tmp_path)
    data = json.loads((folder / "tokenizer.json").read_text())
    data["post_processor"]["single"].insert(0, data["post_processor"]["single"][0])
    write(folder, "tokenizer.json", data)
    write(folder, "tokenizer_config.json", {"bos_token": "<s>"})
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.encode("the")[:2] == [0, 0]


def test_a_bos_that_the_text_itself_has_twice_stays(folder: Path) -> None:
    data = json.loads((folder / "tokenizer.json").read_text())
    write(folder, "tokenizer.json", data | {"post_processor": None})
    write(folder, "tokenizer_config.json", {"bos_token": "<s>"})
    assert Tokenizer.load(folder).encode("<s><s>") == [0, 0]


@pytest.mark.parametrize(
    ("files", "bos", "eos"),
    [
        ({}, None, set()),
        ({"config.json": {"bos_token_id": 3, "eos_token_id": 4}}, 3, {4}),
        ({"config.json": {"eos_token_id": 4}, "generation_config.json": {"eos_token_id": [5, 6]}}, None, {5, 6}),
        ({"config.json": {"eos_token_id": 4}, "generation_config.json": {"eos_token_id": None}}, None, {4}),
        ({"config.json": {"eos_token_id": 4}, "tokenizer_config.json": {"eos_token": "</s>"}}, None, {1, 4}),
        ({"special_tokens_map.json": {"bos_token": "<s>", "eos_token": "</s>"}}, 0, {1}),
        ({"tokenizer_config.json": {"bos_token": None, "eos_token": "no such"}}, None, set()),
        ({"tokenizer_config.json": {"bos_token": "<s>"}, "config.json": {"bos_token_id": 7}}, 0, set()),
    ],
)
def test_where_bos_and_eos_come_from(folder: Path, files: dict, bos: int | None, eos: set) -> None:
    for name, value in files.items():
        write(folder, name, value)
    tokenizer = Tokenizer.load(folder)
    assert (tokenizer.bos_id, set(tokenizer.eos_ids)) == (bos, eos)


def test_truncation_and_padding_in_the_file_are_ignored(folder: Path) -> None:
    """sentence-transformers saves both; a prompt must never be cut silently."""
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(4)
    backend.enable_padding(length=8)
    backend.save(str(folder / "tokenizer.json"))
    tokenizer = Tokenizer.load(folder)
    assert len(tokenizer.encode("x" * 50)) == 51
    assert len(tokenizer.encode("x")) == 2


def test_special_tokens_have_no_text_unless_asked(folder: Path) -> None:
    tokenizer = Tokenizer.load(folder)
    ids = tokenizer.encode("the</s>")
    assert tokenizer.decode(ids) == "the"
    assert tokenizer.decode(ids, special=True) == "<s>the</s>"
    assert tokenizer.decode(np.array(ids, np.int64)) == "the"
    assert [tokenizer.token(token_id) for token_id in ids] == ["<s>", "the", "</s>"]


@given(st.text(max_size=40))
def test_every_text_comes_back(text: str) -> None:
    tokenizer = roundtrip_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text, special=False), special=True) == text


def roundtrip_tokenizer(made: list = []) -> Tokenizer:  # noqa: B006
    if not made:
        import tempfile

        with tempfile.TemporaryDirectory() as name:
            made.append(Tokenizer.load(small_tokenizers.byte_level(Path(name))))
    return made[0]


def test_ids_outside_the_vocabulary(folder: Path) -> None:
    tokenizer = Tokenizer.load(folder)
    size = tokenizer.vocab_size
    for bad in (-1, size, 1 << 31, 1 << 40):
        for use in (tokenizer.token, lambda i: tokenizer.decode([i]), lambda i: tokenizer.stream().push(i)):
            with pytest.raises(
                RequestError, match=f"token id {bad} is outside the vocabulary; expected 0 to {size - 1}"
            ):
                use(bad)
    for wrong in ("a", 1.0, None):
        with pytest.raises(RequestError, match="expected a whole number"):
            tokenizer.decode([wrong])
    with pytest.raises(RequestError, match="outside the vocabulary"):
        tokenizer.stream(prefix=[size])


def test_ids_that_only_the_model_has_decode_to_nothing(folder: Path) -> None:
    """Embeddings are often padded to a round number; a random model may choose such an id."""
    size = Tokenizer.load(folder).vocab_size
    tokenizer = Tokenizer.load(folder, model_vocab=size + 10)
    the = tokenizer.encode("the", special=False)
    assert tokenizer.decode([*the, size + 9, *the]) == "thethe"
    stream = tokenizer.stream()
    assert [stream.push(token_id) for token_id in (*the, size + 9, *the)] == ["the", "", "the"]
    with pytest.raises(RequestError, match="stands for no token"):
        tokenizer.token(size + 9)
    with pytest.raises(RequestError, match=f"expected 0 to {size + 9}"):
        tokenizer.decode([size + 10])


def test_tokens_that_the_model_does_not_have(folder: Path) -> None:
    """A tokenizer may know more than the embedding table has rows: an added token that the model never saw."""
    size = Tokenizer.load(folder).vocab_size
    tokenizer = Tokenizer.load(folder, model_vocab=size - 1)
    assert tokenizer.encode("the") == [0, *Tokenizer.load(folder).encode("the", special=False)]
    with pytest.raises(RequestError, match=rf"text has '<a b>', token id {size - 1}; this model knows 0 to {size - 2}"):
        tokenizer.encode("the<a b>")
    assert tokenizer.decode([size - 1], special=True) == "<a b>"


def test_a_text_begins_with_no_token_that_the_model_does_not_have(folder: Path) -> None:
    """Every prompt would fail, so loading does."""
    write(folder, "tokenizer_config.json", {"bos_token": "<a b>"})
    size = Tokenizer.load(folder).vocab_size
    data = json.loads((folder / "tokenizer.json").read_text())
    data["post_processor"]["special_tokens"]["<s>"]["ids"] = [size - 1]
    write(folder, "tokenizer.json", data)
    Tokenizer.load(folder, model_vocab=size)
    with pytest.raises(TokenizerError, match=rf"puts the token '<a b>' with the id {size - 1} around each text"):
        Tokenizer.load(folder, model_vocab=size - 1)


@pytest.mark.parametrize("text", [None, 5, b"the", ["the"]])
def test_only_text_is_encoded(folder: Path, text: object) -> None:
    with pytest.raises(RequestError, match="expected a string"):
        Tokenizer.load(folder).encode(text)  # type: ignore[arg-type]


def test_a_lone_surrogate_is_refused(folder: Path) -> None:
    with pytest.raises(RequestError, match="lone surrogate at character 2"):
        Tokenizer.load(folder).encode("ab\ud800")


def test_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: no such file; expected the model's tokenizer"):
        Tokenizer.load(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(TokenizerError, match=r"no such file, only vocab\.json; expected the model"):
        Tokenizer.load(tmp_path)


BROKEN = {
    "empty": b"",
    "not JSON": b"{",
    "not text": b"\xff\xfe\x00",
    "another object": b"{}",
    "a list": b"[]",
    "null": b"null",
    "deep": b'{"model":' * 100_000,
    "no model": b'{"version":"1.0","added_tokens":[],"model":null}',
    "unknown model": b'{"version":"1.0","added_tokens":[],"model":{"type":"Nonsense"}}',
    "merge of unknown tokens": b'{"version":"1.0","added_tokens":[],"model":{"type":"BPE","vocab":{"a":0},'
    b'"merges":["x y"]}}',
    "negative id": b'{"version":"1.0","added_tokens":[],"model":{"type":"BPE","vocab":{"a":-1},"merges":[]}}',
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_named(tmp_path: Path, case: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes(BROKEN[case])
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: the tokenizers package cannot use it"):
        Tokenizer.load(tmp_path).encode("a")


@given(st.data())
def test_damaged_files_raise_nothing_but_our_errors(data: st.DataObject) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = small_tokenizers.word_piece(Path(name))
        file = folder / "tokenizer.json"
        raw = bytearray(file.read_bytes())
        start = data.draw(st.integers(0, len(raw) - 1))
        raw[start : start + data.draw(st.integers(0, 40))] = data.draw(st.binary(max_size=20))
        file.write_bytes(raw)
        try:
            tokenizer = Tokenizer.load(folder)
            ids = tokenizer.encode("the cat sat.")
            stream = tokenizer.stream()
            assert "".join(map(stream.push, ids)) + stream.flush() == tokenizer.decode(ids)
        except (TokenizerError, RequestError):
            pass


def test_a_panic_in_the_package_is_our_error(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """Stripping both ends of a one-letter token: the Rust code panics, which is no Exception in Python."""
    folder = small_tokenizers.word_piece(tmp_path)
    data = json.loads((folder / "tokenizer.json").read_text())
    data["decoder"] = {"type": "Strip", "content": "s", "start": 1, "stop": 1}
    write(folder, "tokenizer.json", data)
    tokenizer = Tokenizer.load(folder)
    ids = tokenizer.encode("s", special=False)
    stream = tokenizer.stream()
    assert stream.push(ids[0]) == ""
    for use in (lambda: tokenizer.decode(ids), stream.flush):
        with pytest.raises(TokenizerError, match=r"tokenizer\.json: the tokenizers package cannot use it") as caught:
            use()
        assert type(caught.value.__cause__).__name__ == "PanicException"
    assert tokenizer.decode(tokenizer.encode("the")) == "the"


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json", "generation_config.json"])
@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b'{"eos_token_id":' + b"[" * 100_000])
def test_a_broken_side_file_is_named(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=name.replace(".", r"\.")):
        Tokenizer.load(folder)


@pytest.mark.parametrize("value", ["</s>", [1, None], True, -1, 1.5, {}])
def test_end_ids_must_be_ids(folder: Path, value: object) -> None:
    write(folder, "generation_config.json", {"eos_token_id": value})
    with pytest.raises(TokenizerError, match=r"generation_config\.json: eos_token_id is .*expected a token id"):
        Tokenizer.load(folder)
