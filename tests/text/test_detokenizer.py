"""Text one token at a time equals the decode of all tokens, for every kind of decoder."""

import random
from pathlib import Path

import pytest
import small_tokenizers
import tokenizers

from lepton_edge.text import Tokenizer
from lepton_edge.text.detokenizer import (
    PipelineDetokenizer,
    StrippedDetokenizer,
    WholeDetokenizer,
    byte_of_character,
)

STREAMS = 1000
REAL = (
    "models/tinystories656k",
    "tokenizers/gpt2",
    "tokenizers/gpt_neox_20b",
    "tokenizers/llama2",
    "tokenizers/mistral_hf",
    "tokenizers/phi3_mini",
    "tokenizers/roberta_base",
    "tokenizers/t5_small",
    "tokenizers/whisper_tiny",
)
KINDS = small_tokenizers.KINDS | small_tokenizers.SOURCES
# Folders without a tokenizer.json, or taken without it, and what is written beside the vocabulary.
SOURCES = {
    "llama2": {}, "t5_small": {}, "qwen2.5": {}, "llama3": {"config.json": {"model_type": "llama"}},
    "bert_base_uncased": {"tokenizer_config.json": {"tokenizer_class": "BertTokenizer"}},
}  # fmt: skip
TEXT = "The cat's hat — naïve café, 日本語 ไทย 👩‍👩‍👧 don't \n\n  twice  \t!?. 𝄞"


def joined(tokenizer: Tokenizer, ids: list[int], special: bool = False, prefix: list[int] | None = None) -> str:
    stream = tokenizer.stream(prefix=prefix or [], special=special)
    pieces = [stream.push(token_id) for token_id in ids]
    return "".join([*pieces, stream.flush()])


def random_ids(rng: random.Random, tokenizer: Tokenizer, plain: tokenizers.Tokenizer) -> list[int]:
    """Uniform ids, or pieces of encoded text cut anywhere, or few different ids (long runs of bytes)."""
    kind, length = rng.randrange(3), rng.randrange(0, 40)
    if kind == 0:
        return [rng.randrange(tokenizer.vocab_size) for _ in range(length)]
    if kind == 1:
        start = rng.randrange(len(TEXT))
        ids = plain.encode(TEXT[start:] + TEXT, add_special_tokens=False).ids
        return [token_id for token_id in ids if rng.random() < 0.9][:length]
    few = [rng.randrange(tokenizer.vocab_size) for _ in range(3)]
    few += plain.encode("日👩", add_special_tokens=False).ids
    return [rng.choice(few) for _ in range(length)]


def check_streams(folder: Path) -> None:
    """Pieces are whole characters that nothing takes back: joined, they are what the package decodes."""
    tokenizer = Tokenizer.load(folder, model_vocab=1 << 18)
    plain = tokenizer._backend
    rng = random.Random(1)
    for number in range(STREAMS):
        ids = random_ids(rng, tokenizer, plain)
        special = number % 2 == 1
        expected = plain.decode(ids, skip_special_tokens=not special)
        assert tokenizer.decode(ids, special) == expected
        assert joined(tokenizer, ids, special) == expected, ids


@pytest.mark.parametrize("kind", KINDS)
def test_joined_pieces_are_the_whole_decode(kind: str, tmp_path: Path) -> None:
    check_streams(KINDS[kind](tmp_path))


@pytest.mark.parametrize("name", REAL)
def test_joined_pieces_are_the_whole_decode_for_real_tokenizers(name: str, shared: Path) -> None:
    check_streams(shared / name)


@pytest.mark.parametrize("name", SOURCES)
def test_joined_pieces_are_the_whole_decode_for_real_vocabularies(name: str, shared: Path, tmp_path: Path) -> None:
    check_streams(small_tokenizers.without_json(shared / "tokenizers" / name, tmp_path, SOURCES[name]))


@pytest.mark.parametrize("kind", KINDS)
def test_text_goes_on_after_a_prefix(kind: str, tmp_path: Path) -> None:
    """After a prompt the text is what decoding both together adds, leading space included."""
    tokenizer = Tokenizer.load(KINDS[kind](tmp_path))
    rng = random.Random(2)
    for _ in range(200):
        ids = [rng.randrange(tokenizer.vocab_size) for _ in range(rng.randrange(8))]
        # No token of bytes above 127: a prompt that ends inside a character has tests of its own.
        ids = [token_id for token_id in ids if tokenizer.decode([token_id]).isascii()]
        cut = rng.randrange(len(ids) + 1)
        before, whole = tokenizer.decode(ids[:cut]), tokenizer.decode(ids)
        if kind == "end_of_word" or whole.startswith(before):
            assert joined(tokenizer, ids[cut:], prefix=ids[:cut]) == whole[len(before) :], (ids, cut)


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback", "gemma"])
def test_a_character_comes_with_its_last_byte(kind: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(small_tokenizers.KINDS[kind](tmp_path))
    ids = tokenizer.encode("the👩the", special=False)
    stream = tokenizer.stream()
    pieces = [stream.push(token_id) for token_id in ids]
    shown = [piece for piece in pieces if piece]
    assert "👩" in "".join(pieces) and stream.flush() == ""
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(shown)
    if kind == "byte_level":
        assert pieces[-5:] == ["", "", "", "👩", "the"]


@pytest.mark.parametrize(
    ("kind", "half", "rest", "text"),
    [
        ("byte_level", b"\xf0\x9f\x91", b"\xa9", "👩"),
        ("byte_fallback", b"\n\xf0\x9f\x91", b"\xa9", "👩"),
        ("byte_fallback", b"\n\n", b"!", "!"),
        ("byte_fallback", b"\xff\xf0", b"!", "!"),
    ],
)
def test_a_prefix_may_end_inside_a_character(kind: str, half: bytes, rest: bytes, text: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(small_tokenizers.KINDS[kind](tmp_path))
    character_of = {byte: character for character, byte in byte_of_character().items()}

    def ids_of(data: bytes) -> list[int]:
        names = [f"<0x{byte:02X}>" if kind == "byte_fallback" else character_of[byte] for byte in data]
        return [next(i for i in range(tokenizer.vocab_size) if tokenizer.token(i) == name) for name in names]

    assert joined(tokenizer, ids_of(rest), prefix=ids_of(half)) == text


@pytest.mark.parametrize("before", [b"\n", b"\xe6\x97\xa5", b"\xff", b"a\xf0\x9f"])
def test_a_prefix_of_bytes_is_no_beginning(before: bytes, tmp_path: Path) -> None:
    """The space after it stays: it is not the one that a text begins with."""
    tokenizer = Tokenizer.load(small_tokenizers.byte_fallback(tmp_path))
    id_of = {tokenizer.token(token_id): token_id for token_id in range(tokenizer.vocab_size)}
    prefix = [id_of[f"<0x{byte:02X}>"] for byte in before]
    assert joined(tokenizer, [id_of["▁the"]], prefix=prefix).endswith(" the")


def test_held_text_ends_with_flush(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(small_tokenizers.byte_level(tmp_path))
    ids = tokenizer.encode("the é"[:-1] + "日", special=False)
    stream = tokenizer.stream()
    assert "".join(stream.push(token_id) for token_id in ids[:-1]) == "the "
    assert stream.flush() == "\N{REPLACEMENT CHARACTER}" == tokenizer.decode(ids[:-1])[-1]


def test_the_cost_of_a_token_does_not_grow(tmp_path: Path) -> None:
    """Each token is looked up once and passes each step once; a decoder that cannot do that says so by its type."""
    tokenizer = Tokenizer.load(small_tokenizers.byte_fallback(tmp_path / "a"))
    stream = tokenizer.stream()
    assert isinstance(stream, PipelineDetokenizer)
    lookups, pushed = [], []
    stream._string_of = lambda token_id: lookups.append(token_id) or "x"  # type: ignore[func-returns-value]
    stages = list(stream._stages)
    for stage in stages:
        inner = stage.push
        stage.push = lambda piece, inner=inner: pushed.append(len(piece)) or inner(piece)
    assert "".join(stream.push(0) for _ in range(5000)) + stream.flush() == "x" * 5000
    assert len(lookups) == 5000 and sum(pushed) == 5000 * len(stages)
    assert isinstance(Tokenizer.load(small_tokenizers.end_of_word(tmp_path / "b")).stream(), WholeDetokenizer)


def test_the_byte_alphabet_is_the_package_s() -> None:
    from tokenizers.pre_tokenizers import ByteLevel

    table = byte_of_character()
    assert sorted(table) == sorted(ByteLevel.alphabet())
    assert sorted(table.values()) == list(range(256))
    assert (table["A"], table["Ġ"], table["Ċ"]) == (65, 32, 10)


class Said:
    """A detokenizer that says what it is told to; token i is the i-th text, the last one comes with `flush`."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts

    def push(self, token_id: int) -> str:
        return self.texts[token_id]

    def flush(self) -> str:
        return self.texts[-1]


@pytest.mark.parametrize(("texts", "expected"), [
    (["  a", " b ", "\n", "c\t", " "], ["a", " b", "", " \nc", ""]),
    ([" ", "\u3000", "x", "", "y  "], ["", "", "x", "", "y"]), ([" ", " "], ["", ""]), ([""], [""]),
])  # fmt: skip
def test_stripped(texts: list[str], expected: list[str]) -> None:
    """White space is held back until something follows; what is at the ends never comes."""
    stripped = StrippedDetokenizer(Said(texts))
    found = [*map(stripped.push, range(len(texts) - 1)), stripped.flush()]
    assert found == expected and "".join(found) == "".join(texts).strip()
