"""Tokenizers made from other files than tokenizer.json: which class means what, added tokens, damaged files."""

import base64
import itertools
import json
import tempfile
from pathlib import Path

import pytest
import small_tokenizers
from hypothesis import given
from hypothesis import strategies as st
from small_tokenizers import bytes_and_merges, ranks, words

from lepton_edge.errors import RequestError, TokenizerError
from lepton_edge.text import Tokenizer

TEXTS = ("the cat", " the\n\n  cat 12 345, don't!?", "<s>the</s><a b>x", "é e\u0301 日本 ½", "", "\t \n", "WE'Ll  x")


def rewrite(folder: Path, name: str, **values: object) -> None:
    """Change fields of a JSON file."""
    path = folder / name
    old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps(old | values), encoding="utf-8")


def tokens(folder: Path, text: str, special: bool = True) -> list[str]:
    tokenizer = Tokenizer.load(folder)
    return [tokenizer.token(token_id) for token_id in tokenizer.encode(text, special)]


def test_bytes_and_merges_are_the_tokenizer_json_of_the_same(tmp_path: Path) -> None:
    made = Tokenizer.load(bytes_and_merges(tmp_path / "a"))
    folder = small_tokenizers.byte_level(tmp_path / "b")
    rewrite(folder, "tokenizer_config.json", bos_token="<s>")
    whole = Tokenizer.load(folder)
    assert made.vocab_size == whole.vocab_size
    assert (made.bos_id, made.eos_ids) == (0, frozenset({1}))
    for text in TEXTS:
        ids = made.encode(text)
        assert ids == whole.encode(text), text
        assert made.decode(ids, special=True) == whole.decode(ids, special=True)


@pytest.mark.parametrize(("name", "kind"), [("gpt2", "GPT2Tokenizer"), ("roberta_base", "RobertaTokenizer")])
def test_real_merges_are_their_tokenizer_json(name: str, kind: str, shared: Path, tmp_path: Path) -> None:
    """Runs of spaces are tokens of their own in this tokenizer.json of gpt2, so no text has them."""
    files = {"tokenizer_config.json": {"tokenizer_class": kind}}
    made = Tokenizer.load(small_tokenizers.without_json(shared / "tokenizers" / name, tmp_path, files))
    whole = Tokenizer.load(shared / "tokenizers" / name)
    text = " ".join((shared / "text/tinyshakespeare/input.txt").read_text(encoding="utf-8")[:60_000].split(" "))
    for part in (*(text[start : start + 300] for start in range(0, 60_000, 300)), "naïve 日本 ½ 👩‍👩‍👧 ж12345"):
        assert "  " in part or "\t" in part or made.encode(part) == whole.encode(part), part


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("GPT2Tokenizer", "the12 the", ["<s>", "the", "1", "2", "Ġthe"]),
        ("GPT2TokenizerFast", "e\u0301", ["<s>", "e", "Ì", "ģ"]),
        ("GPTNeoXTokenizer", "e\u0301", ["<s>", "Ã©"]),
        ("Qwen2Tokenizer", "e\u0301", ["<s>", "Ã©"]),
        ("Qwen2Tokenizer", ".the", ["<s>", ".", "the"]),
        ("CodeGenTokenizer", "the", ["<s>", "the"]),
        ("RobertaTokenizer", "the", ["<s>", "the", "</s>"]),
    ],
)
def test_the_class_decides(kind: str, text: str, expected: list[str], tmp_path: Path) -> None:
    folder = bytes_and_merges(tmp_path)
    rewrite(folder, "tokenizer_config.json", tokenizer_class=kind)
    if kind == "RobertaTokenizer":
        rewrite(folder, "tokenizer_config.json", add_bos_token=None)
    assert tokens(folder, text) == expected


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        # GPT-2 keeps a letter run apart from what precedes it; Qwen's pattern lets one other character lead it.
        ("GPT2Tokenizer", "12", ["12"]),
        ("Qwen2Tokenizer", "12", ["1", "2"]),
        ("GPT2Tokenizer", ".t", [".", "t"]),
        ("Qwen2Tokenizer", ".t", [".t"]),
        ("starcoder2", "12", ["1", "2"]),
        ("gpt2", "12", ["12"]),
    ],
)
def test_words_are_cut_as_the_class_does(kind: str, text: str, expected: list[str], tmp_path: Path) -> None:
    folder = bytes_and_merges(tmp_path)
    vocabulary = json.loads((folder / "vocab.json").read_text())
    size = len(vocabulary)
    (folder / "vocab.json").write_text(json.dumps(vocabulary | {"12": size, ".t": size + 1}))
    rewrite(folder, "added_tokens.json", **{"<a b>": size + 2})
    with open(folder / "merges.txt", "a", encoding="utf-8") as file:
        file.write("1 2\n. t\n")
    named = kind if kind.endswith("Tokenizer") else "GPT2Tokenizer"
    rewrite(folder, "tokenizer_config.json", tokenizer_class=named, add_bos_token=False)
    if named != kind:
        rewrite(folder, "config.json", model_type=kind)
    assert tokens(folder, text) == expected


def test_the_model_type_names_the_class(tmp_path: Path) -> None:
    folder = bytes_and_merges(tmp_path)
    rewrite(folder, "tokenizer_config.json", tokenizer_class=None)
    with pytest.raises(TokenizerError, match=r"names no tokenizer_class, which vocab\.json alone does not explain"):
        Tokenizer.load(folder)
    rewrite(folder, "config.json", model_type="qwen3")
    assert tokens(folder, "e\u0301") == ["<s>", "Ã©"]
    rewrite(folder, "config.json", model_type="llama")
    rewrite(folder, "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
    with pytest.raises(TokenizerError, match="does not say how a model of type 'llama' cuts text"):
        Tokenizer.load(folder)


def test_an_unknown_class_is_refused(tmp_path: Path) -> None:
    for index, kind in enumerate((bytes_and_merges, words, ranks, small_tokenizers.pieces_bpe)):
        folder = kind(tmp_path / str(index))
        rewrite(folder, "tokenizer_config.json", tokenizer_class="XLMRobertaTokenizer")
        with pytest.raises(TokenizerError, match="names the tokenizer_class 'XLMRobertaTokenizer', which"):
            Tokenizer.load(folder)


@pytest.mark.parametrize(
    ("options", "text", "expected"),
    [
        ({}, "The CAT, é!", ["[CLS]", "the", "cat", ",", "e", "[UNK]", "[SEP]"]),
        ({"do_lower_case": False}, "The cat é", ["[CLS]", "[UNK]", "cat", "é", "[SEP]"]),
        ({"strip_accents": False}, "the é", ["[CLS]", "the", "é", "[SEP]"]),
        ({}, "thecat cats 日本", ["[CLS]", "the", "##cat", "cat", "##s", "[UNK]", "[UNK]", "[SEP]"]),
        ({"tokenize_chinese_chars": False}, "日本", ["[CLS]", "日本", "[SEP]"]),
        ({}, "the[MASK]", ["[CLS]", "the", "[MASK]", "[SEP]"]),
    ],
)
def test_bert_s_options(options: dict, text: str, expected: list[str], tmp_path: Path) -> None:
    folder = words(tmp_path)
    rewrite(folder, "tokenizer_config.json", **options)
    assert tokens(folder, text) == expected


@pytest.mark.parametrize("options", [{"do_basic_tokenize": False}, {"never_split": ["x"]}, {"do_lower_case": "yes"}])
def test_options_that_bert_cannot_have(options: dict, tmp_path: Path) -> None:
    folder = words(tmp_path)
    rewrite(folder, "tokenizer_config.json", **options)
    with pytest.raises(TokenizerError, match=rf"tokenizer_config\.json: {next(iter(options))} is"):
        Tokenizer.load(folder)


def test_ranks(tmp_path: Path) -> None:
    folder = ranks(tmp_path)
    assert tokens(folder, "the thecat é") == ["<|begin_of_text|>", "the", "Ġthe", "cat", "Ġ", "Ã©"]
    assert tokens(folder, "cath<|end_of_text|>", special=False) == ["c", "a", "th", "<|end_of_text|>"]
    tokenizer = Tokenizer.load(folder)
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (262, frozenset({263}))
    assert tokenizer.decode(tokenizer.encode("日 the")) == "日 the"


def joined_by_rank(word: bytes, rank_of: dict[bytes, int]) -> list[int]:
    """What the format means: of all neighbours join those with the lowest rank, the leftmost first, to the end."""
    if word in rank_of:
        return [rank_of[word]]
    parts = [bytes([byte]) for byte in word]
    while True:
        found = [(rank_of[a + b], at) for at, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in rank_of]
        if not found:
            return [rank_of[part] for part in parts]
        at = min(found)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


@given(st.text("thecaé", min_size=1, max_size=30))
def test_tokens_are_joined_by_rank(word: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = ranks(Path(name))
        lines = (folder / "tokenizer.model").read_bytes().split(b"\n")[:-1]
        pairs = (one.split(b" ") for one in lines)
        rank_of = {base64.b64decode(token): int(rank) for token, rank in pairs}
        assert Tokenizer.load(folder).encode(word, special=False) == joined_by_rank(word.encode(), rank_of)


def line(data: bytes, rank: int) -> str:
    return f"{base64.b64encode(data).decode()} {rank}\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (line(b"a", 0) + "!!! 1\n", "line 2 is '!!! 1'"),
        (line(b"a", 0) + line(b"b", 0), "and a rank that no other has"),
        (line(b"a", 0) + "YQ==\n", "line 2"),
        (line(b"a", 0) + line(b"b", 5), "no token with the id 1, but larger ids"),
        (line(b"a", 0) + line(b"a", 1), "the token 'a' has the ids 0 and 1"),
        (line(b"a", 0) + line(b"a" * 1001, 1), "line 2"),
        (line(b"a", 0), "has no token for the byte 0x20, nor for 93 other printable ones"),
        (line(b"a", 0) + "\xff 1\n", "line 2"),
    ],
)
def test_damaged_ranks(text: str, reason: str, tmp_path: Path) -> None:
    folder = ranks(tmp_path)
    rewrite(folder, "tokenizer_config.json", added_tokens_decoder=None)
    (folder / "tokenizer.model").write_text(text, encoding="utf-8", newline="")
    with pytest.raises(TokenizerError, match=r"tokenizer\.model: ") as caught:
        Tokenizer.load(folder)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("merges", "reason"),
    [
        ("t h\nt e\n", "line 2 needs the token 'te', which the vocabulary does not have"),
        ("zz t\n", "line 1 needs the token 'zz'"),
        ("t\n", "line 1 is 't'; expected two tokens"),
        ("#version: 0.2\nt h x\n", "line 2 is 't h x'; expected two tokens"),
        ("t h\nt h\n", "line 2 is 't h', which was there before"),
        ("t h\n\nth e\n", "line 2 is ''"),
    ],
)
def test_damaged_merges(merges: str, reason: str, tmp_path: Path) -> None:
    folder = bytes_and_merges(tmp_path)
    (folder / "merges.txt").write_text(merges, encoding="utf-8", newline="")
    with pytest.raises(TokenizerError, match=r"merges\.txt: ") as caught:
        Tokenizer.load(folder)
    assert reason in str(caught.value)


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_line_ends_of_windows(end: str, tmp_path: Path) -> None:
    folder = bytes_and_merges(tmp_path)
    (folder / "merges.txt").write_text(end.join(["#version: 0.2", "t h", "th e"]), encoding="utf-8", newline="")
    assert tokens(folder, "the") == ["<s>", "the"]



@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("vocab.json", {"t": 3}, "both have the id 3; expected one each"),
        ("vocab.json", {"t": -1}, "'t' has the id -1; expected a whole number"),
        ("vocab.json", {"t": True}, "'t' has the id True"),
        ("vocab.json", {"t": "1"}, "'t' has the id '1'"),
        ("vocab.json", {"t": 1 << 40}, "but larger ids; expected every id from 0 on once"),
        ("added_tokens.json", {"new": 900}, "has no token with the id 266, but larger ids"),
        ("added_tokens.json", {"the": 266}, "the token 'the' has the ids"),
        ("added_tokens.json", {"new": 1 << 60}, "the added token 'new' has no proper id"),
        ("added_tokens.json", {"new": [1]}, "the added token 'new' has no proper id"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "new"}}}, "added token 'x' has no proper"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"266": {}}}, "{} is no token"),
        ("tokenizer_config.json", {"added_tokens_decoder": []}, "added_tokens_decoder is []; expected an object"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"265": {"content": "b"}}}, "has the id 265, which"),
        ("tokenizer_config.json", {"add_bos_token": 1}, "add_bos_token is 1; expected true, false or null"),
        ("tokenizer_config.json", {"bos_token": "no such"}, "has no token 'no such', which goes around each text"),
    ],
)
def test_damaged_vocabularies(name: str, change: dict, reason: str, tmp_path: Path) -> None:
    folder = bytes_and_merges(tmp_path)
    rewrite(folder, name, **change)
    with pytest.raises(TokenizerError, match=r"\.json: ") as caught:
        Tokenizer.load(folder)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"the\n\xff\n", "byte 4 is not UTF-8"),
        (b"[UNK]\nthe\nthe\n", "the token 'the' has the ids 1 and 2"),
        (b"the\ncat\n", "has no token '[UNK]' for unknown words"),
        (b"[UNK]\nthe\n", "has no token '[CLS]', which goes around each text"),
        (b"", "has no token '[UNK]'"),
    ],
)
def test_damaged_words(raw: bytes, reason: str, tmp_path: Path) -> None:
    folder = words(tmp_path)
    (folder / "vocab.txt").write_bytes(raw)
    with pytest.raises(TokenizerError, match=r"vocab\.txt: ") as caught:
        Tokenizer.load(folder)
    assert reason in str(caught.value)


def test_a_file_that_is_too_large_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = words(tmp_path)
    monkeypatch.setattr("lepton_edge.text.package.MAX_FILE_BYTES", 10)
    with pytest.raises(TokenizerError, match=r"vocab\.txt: is larger than"):
        Tokenizer.load(folder)


def test_added_tokens_and_their_flags(tmp_path: Path) -> None:
    folder = bytes_and_merges(tmp_path)
    size = Tokenizer.load(folder).vocab_size
    added = {
        str(size): {"content": "<cut>", "lstrip": True, "rstrip": True, "special": True},
        str(size + 1): {"content": "word", "single_word": True},
    }
    rewrite(folder, "tokenizer_config.json", added_tokens_decoder=added, additional_special_tokens=["word", "unheard"])
    assert tokens(folder, "t <cut>  t words word", special=False) == [
        "t", "<cut>", "t", "Ġ", *"words", "Ġ", "word",
    ]  # fmt: skip
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.decode([size, size + 1]) == ""
    assert tokenizer.decode([size, size + 1], special=True) == "<cut>word"


@given(st.data())
def test_damaged_files_raise_nothing_but_our_errors(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([bytes_and_merges, words, ranks]))
    with tempfile.TemporaryDirectory() as name:
        folder = kind(Path(name))
        file = data.draw(st.sampled_from(sorted(folder.iterdir())))
        raw = bytearray(file.read_bytes())
        start = data.draw(st.integers(0, len(raw) - 1))
        raw[start : start + data.draw(st.integers(0, 40))] = data.draw(st.binary(max_size=20))
        file.write_bytes(raw)
        try:
            tokenizer = Tokenizer.load(folder)
            ids = tokenizer.encode("the cat sat. é")
            stream = tokenizer.stream()
            assert "".join(map(stream.push, ids)) + stream.flush() == tokenizer.decode(ids)
        except (TokenizerError, RequestError):
            pass
