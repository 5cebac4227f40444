"""SentencePiece models: ids and text are sentencepiece's own (stored in golden/), and no file does harm."""

import base64
import json
import struct
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
import small_tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import message, pieces_bpe, pieces_unigram, sentence_piece, varint

from lepton_edge.errors import RequestError, TokenizerError
from lepton_edge.text import Tokenizer
from lepton_edge.text.charsmap import Charsmap
from lepton_edge.text.sentencepiece import backend_of
from lepton_edge.text.sentencepiece_file import read_model

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "sentencepiece.json").read_text(encoding="utf-8"))
UNKNOWN = " \N{DOUBLE QUESTION MARK} "  # how sentencepiece shows an unknown piece


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("name", GOLDEN["models"])
def test_ids_and_text_are_those_of_sentencepiece(name: str, legacy: bool, tmp_path: Path) -> None:
    golden = GOLDEN["models"][name]
    path = tmp_path / "tokenizer.model"
    path.write_bytes(base64.b64decode(golden["model"]))
    backend = backend_of(read_model(path), path, legacy)
    for text, ids, decoded in zip(GOLDEN["texts"], golden["ids"], golden["decoded"], strict=True):
        assert backend.encode(text).ids == ids, text
        if UNKNOWN not in decoded:
            assert backend.decode(ids) == decoded, text


@pytest.mark.parametrize("name", ["llama2", "mistral_hf"])
def test_a_real_model_is_its_tokenizer_json(name: str, shared: Path, tmp_path: Path) -> None:
    """transformers made the tokenizer.json. In llama2's, special tokens inside a text are known only after a space."""
    ours = Tokenizer.load(small_tokenizers.without_json(shared / "tokenizers" / name, tmp_path, {}))
    theirs = Tokenizer.load(shared / "tokenizers" / name)
    text = (shared / "text/tinyshakespeare/input.txt").read_text(encoding="utf-8")
    parts = [text[start : start + 300] for start in range(0, 60_000, 300)]
    inside = ["<s>a</s> b<s>", " </s>", "</s></s>  x <unk> y"] if name != "llama2" else []
    for part in (*parts, *GOLDEN["texts"], *inside):
        assert ours.encode(part) == theirs.encode(part), part


def tokens(tokenizer: Tokenizer, text: str, special: bool = True) -> list[str]:
    return [tokenizer.token(token_id) for token_id in tokenizer.encode(text, special)]


@pytest.mark.parametrize(
    ("options", "text", "expected"),
    [
        ({}, "the", ["<s>", "▁the"]),
        ({}, " the", ["<s>", "▁", "▁the"]),
        ({}, "  at", ["<s>", "▁▁", "▁", "at"]),
        ({}, "<s>the</s>cat", ["<s>", "▁the", "</s>", "▁", "cat"]),
        ({"legacy": True}, "the</s>cat", ["<s>", "▁the", "</s>", "▁", "cat"]),
        ({"legacy": False}, "the</s>cat", ["<s>", "▁the", "</s>", "cat"]),
        ({"legacy": False}, "the</s> the", ["<s>", "▁the", "</s>", "▁the"]),
        ({"add_prefix_space": False}, "the", ["<s>", "the"]),
        ({"add_prefix_space": None}, "the", ["<s>", "▁the"]),
        ({"add_bos_token": False}, "the", ["▁the"]),
        ({"add_eos_token": True}, "the", ["<s>", "▁the", "</s>"]),
        ({"add_eos_token": True, "add_bos_token": False}, "", ["</s>"]),
        ({"eos_token": "the", "add_eos_token": True}, "cat", ["<s>", "▁", "cat", "the"]),
        ({"bos_token": None}, "the", ["▁the"]),
        ({}, "ä<0x41>", ["<s>", "▁", "<0xC3>", "<0xA4>", "<0x3C>", "<0x30>", "<0x78>", "<0x34>", "<0x31>", "<0x3E>"]),
    ],
)
def test_what_the_config_decides(options: dict, text: str, expected: list[str], tmp_path: Path) -> None:
    assert tokens(Tokenizer.load(pieces_bpe(tmp_path, **options)), text) == expected


@pytest.mark.parametrize(
    ("legacy", "text", "expected"),
    [
        (True, "the<extra_id_0> cat", ["▁the", "<extra_id_0>", "▁cat", "</s>"]),
        (True, "the<extra_id_0>cat", ["▁the", "<extra_id_0>", "▁cat", "</s>"]),
        (False, "  the<extra_id_0>  cat ", ["▁the", "<extra_id_0>", "▁cat", "</s>"]),
        (False, "the<extra_id_0>cat", ["▁the", "<extra_id_0>", "cat", "</s>"]),
        (False, "<extra_id_0>cat", ["<extra_id_0>", "cat", "</s>"]),
        (False, "   ", ["</s>"]),
    ],
)
def test_spaces_after_special_tokens(legacy: bool, text: str, expected: list[str], tmp_path: Path) -> None:
    assert tokens(Tokenizer.load(pieces_unigram(tmp_path, legacy=legacy)), text) == expected


def test_ends_of_a_model(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(pieces_bpe(tmp_path))
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (1, frozenset({2}))
    assert tokenizer.decode(tokenizer.encode("the cat 日本é!")) == "the cat 日本é!"


def test_t5_has_extra_ids_and_an_end(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(pieces_unigram(tmp_path))
    assert tokens(tokenizer, "the  cat<sep>?<extra_id_0>") == ["▁the", "▁cat", "<sep>", "<unk>", "<extra_id_0>", "</s>"]
    assert tokenizer.token(tokenizer.vocab_size - 4) == "<extra_id_3>"
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (None, frozenset({1}))


def test_added_tokens_rename_and_append(tmp_path: Path) -> None:
    size = Tokenizer.load(pieces_bpe(tmp_path / "a")).vocab_size
    added = {"271": {"content": "<call>", "special": True}, str(size): {"content": "<end>", "rstrip": True}}
    tokenizer = Tokenizer.load(pieces_bpe(tmp_path / "b", added_tokens_decoder=added))
    assert tokens(tokenizer, "the<call>the<end> the", special=False) == ["▁the", "<call>", "▁the", "<end>", "▁the"]
    assert (tokenizer.encode("<call>")[1], tokenizer.encode("<end>")[1]) == (271, size)
    assert tokenizer.decode([271, size]) == "<end>"


def test_a_unigram_model_does_not_read_bytes_from_a_text(tmp_path: Path) -> None:
    pieces = [("<unk>", 0.0, 2), *((byte, 0.0, 6) for byte in small_tokenizers.BYTES), ("▁", -1.0, 1)]
    folder = sentence_piece(tmp_path, pieces, {35: 1}, {}, tokenizer_class="LlamaTokenizer", add_bos_token=False)
    assert tokens(Tokenizer.load(folder), "<0x41>")[:2] == ["▁", "<0x3C>"]


def trie(keys: dict[bytes, int]) -> bytes:
    """A double array of single-byte keys, each with a leaf: unit 0 leads to block 256, leaves lie from 512 on."""
    units = [0] * 1024
    units[0] = 256 << 10
    for index, (key, value) in enumerate(keys.items()):
        at = 256 ^ key[0]
        leaf = 512 + index
        units[at] = key[0] | 1 << 8 | (at ^ leaf) << 10
        units[leaf] = 1 << 31 | value
    return struct.pack("<1024I", *units)


def test_a_map_of_characters() -> None:
    table = trie({b"a": 0, b"b": 3, b"c": 2})
    charsmap = Charsmap(struct.pack("<I", len(table)) + table + b"xy\0z\0", Path("f"))
    assert charsmap.replace("dabc日a") == "dxyz日xy"
    half = trie({b"\xe6": 0})  # the first byte of 日 is no character
    assert Charsmap(struct.pack("<I", len(half)) + half + b"x\0", Path("f")).replace("日") == "日"


DAMAGED = {
    "empty": b"", "size": struct.pack("<I", 4000) + b"abcd", "odd": struct.pack("<I", 5) + b"abcdefgh",
    "short": b"\x04",
}  # fmt: skip


@pytest.mark.parametrize("raw", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_map_of_characters(raw: bytes) -> None:
    with pytest.raises(TokenizerError, match="the map of characters has"):
        Charsmap(raw, Path("f"))


@pytest.mark.parametrize(("value", "texts"), [(9, b"xy\0"), (0, b"xy"), (0, b"\xff\0"), (1, "é\0".encode()), (0, b"")])
def test_a_map_that_points_nowhere(value: int, texts: bytes, tmp_path: Path) -> None:
    """Loading finds it: the tokenizers package says nothing where a normalizer raises."""
    table = trie({b"a": value})
    charsmap = struct.pack("<I", len(table)) + table + texts
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("▁", -1.0, 1)]
    folder = sentence_piece(tmp_path, pieces, {}, {2: charsmap}, tokenizer_class="LlamaTokenizer")
    with pytest.raises(TokenizerError, match=r"tokenizer\.model: the map of characters is damaged"):
        Tokenizer.load(folder)


@given(st.binary(max_size=200), st.text(max_size=20))
def test_any_map_of_characters_ends(raw: bytes, text: str) -> None:
    size = len(raw) // 8 * 4
    if size:
        with suppress(TokenizerError):
            assert isinstance(Charsmap(struct.pack("<I", size) + raw, Path("f")).replace(text), str)


UNK = (1, message((1, "<unk>"), (3, 2)))


def piece(string: object, score: float = 0.0, kind: int = 1) -> tuple[int, bytes]:
    return 1, message((1, string), (2, score), (3, kind))


BROKEN = {
    "empty": (b"", "has 0 pieces for unknown characters"),
    "cut": (message(UNK, piece("a"))[:-3], "field 1 has 10 bytes, but 7 are left"),
    "a cut number": (b"\x80", "a number is cut off"),
    "a huge number": (b"\xff" * 11 + b"\x01", "a number of more than ten bytes"),
    "a huge length": (b"\x0a" + varint((1 << 63) + 5) + b"abc", "but 3 are left"),
    "a group": (b"\x0b\x0c", "field 1 has the wire type 3"),
    "a number for a message": (message((1, 7)), "field 1 has the wire type 0"),
    "a number for a string": (message((1, message((1, 7)))), "field 1 has the wire type 0"),
    "an unknown type": (message((1, message((1, "a"), (3, 9)))), "9 is not a valid Type"),
    "not UTF-8": (message(UNK, piece(b"\xff\xfe")), "invalid start byte"),
    "no text": (message(UNK, piece("")), "piece 1 is ''"),
    "a long text": (message(UNK, piece("a" * 1001)), "expected 1 to 1000 characters"),
    "no number": (message(UNK, piece("a", float("nan"))), "piece 1 is 'a' with the score nan"),
    "twice": (message(UNK, piece("a"), piece("a")), "the token 'a' has the ids 1 and 2"),
    "two unknown": (message(UNK, UNK), "has 2 pieces for unknown characters"),
    "unused": (message(UNK, piece("a", 0.0, 5)), "of the type 'unused'"),
    "bytes": (message(UNK, piece("<0x00>", 0.0, 6)), "has 1 pieces for bytes; expected 0"),
    "no bytes": (message(UNK, (2, message((35, 1)))), "has 0 pieces for bytes; expected 256"),
    "word model": (message(UNK, (2, message((3, 3)))), "model type 3; expected 1"),
    "suffixes": (message(UNK, (2, message((24, 1)))), "treat_whitespace_as_suffix is set"),
    "spaces": (message(UNK, (3, message((5, 0)))), "escape_whitespaces is off"),
    "a damaged map": (message(UNK, (3, message((2, b"abcdefgh")))), "the map of characters has"),
    "no BOS": (message(UNK, piece("a")), "has no token '<s>', which goes around each text"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_model_is_named(case: str, tmp_path: Path) -> None:
    raw, reason = BROKEN[case]
    (tmp_path / "tokenizer.model").write_bytes(raw)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    with pytest.raises(TokenizerError) as caught:
        Tokenizer.load(tmp_path)
    assert "tokenizer.model: " in str(caught.value) and reason in str(caught.value)


@given(st.data())
@settings(max_examples=150)
def test_damaged_models_raise_nothing_but_our_errors(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([pieces_bpe, pieces_unigram]))
    with tempfile.TemporaryDirectory() as name:
        folder = kind(Path(name))
        file = folder / "tokenizer.model"
        raw = bytearray(file.read_bytes())
        start = data.draw(st.integers(0, len(raw) - 1))
        raw[start : start + data.draw(st.integers(0, 40))] = data.draw(st.binary(max_size=20))
        file.write_bytes(raw)
        try:
            tokenizer = Tokenizer.load(folder)
            ids = tokenizer.encode("the  cat sat. 日本é")
            stream = tokenizer.stream()
            assert "".join(map(stream.push, ids)) + stream.flush() == tokenizer.decode(ids)
        except (TokenizerError, RequestError):
            pass
