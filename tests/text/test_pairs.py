"""Texts with special tokens, types and offsets; cut and in windows."""


from collections.abc import Iterator

import pytest
from golden import tasks

from lepton_edge.errors import ContextLengthError, RequestError
from lepton_edge.text import Tokenizer
from lepton_edge.text.pairs import MAX_READ, Encoded, cut, cut_longest, windows


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("pairs")
    tasks.write_tokenizer(folder)
    return Tokenizer.load(folder, len(tasks.WORDS))


def words(encoded: Encoded) -> str:
    return " ".join(tasks.WORDS[i] for i in encoded.ids)


def test_one_text(tokenizer: Tokenizer) -> None:
    text = "The Microsoft é本"
    found = tokenizer.encode_pair(text)
    assert words(found) == "[CLS] the micro ##soft é 本 [SEP]"
    assert [text[a:b] for a, b in found.offsets] == ["", "The", "Micro", "soft", "é", "本", ""]
    assert found.types == [0] * 7 and found.texts == [None, 0, 0, 0, 0, 0, None]
    assert found.words == [None, 0, 1, 1, 2, 3, None]
    assert found.ids == tokenizer.encode(text)


def test_two_texts(tokenizer: Tokenizer) -> None:
    found = tokenizer.encode_pair("the cat", "a dog ran")
    assert words(found) == "[CLS] the cat [SEP] a dog ran [SEP]"
    assert found.types == [0, 0, 0, 0, 1, 1, 1, 1]
    assert found.texts == [None, 0, 0, None, 1, 1, 1, None]
    assert found.offsets[4:7] == [(0, 1), (2, 5), (6, 9)]


def test_cut_keeps_what_stands_around(tokenizer: Tokenizer) -> None:
    found = tokenizer.encode_pair("the cat sat on the mat", "a dog ran")
    assert words(cut(found, 8)) == "[CLS] the cat [SEP] a dog ran [SEP]"
    assert words(cut(found, 10, text=1)) == "[CLS] the cat sat on the mat [SEP] a [SEP]"
    assert cut(found, 12) is found
    with pytest.raises(ContextLengthError, match="the 5 that fit"):
        cut(found, 5)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [  # as tokenizers' LongestFirst cuts 6 and 3 tokens
        (11, "[CLS] the cat sat on the [SEP] a dog ran [SEP]"),
        (9, "[CLS] the cat sat [SEP] a dog ran [SEP]"),
        (8, "[CLS] the cat sat [SEP] a dog [SEP]"),
        (5, "[CLS] the [SEP] a [SEP]"),
    ],
)
def test_the_longer_text_is_cut(tokenizer: Tokenizer, limit: int, expected: str) -> None:
    for swapped in (False, True):
        texts = ["the cat sat on the mat", "a dog ran"]
        found = cut_longest(tokenizer.encode_pair(*(texts[::-1] if swapped else texts)), limit)
        one, two = expected.removeprefix("[CLS] ").removesuffix(" [SEP]").split(" [SEP] ")
        assert words(found) == (f"[CLS] {two} [SEP] {one} [SEP]" if swapped else expected)


def test_windows_cover_the_text(tokenizer: Tokenizer) -> None:
    found = tokenizer.encode_pair("who is", "the cat sat on the mat")
    pieces = windows(found, 8, 1, 1)
    assert [words(piece) for piece in pieces] == [
        "[CLS] who is [SEP] the cat sat [SEP]",
        "[CLS] who is [SEP] sat on the [SEP]",
        "[CLS] who is [SEP] the mat [SEP]",
    ]
    assert windows(found, 11, 1, 1) == [found]
    with pytest.raises(ContextLengthError, match="neighbouring pieces share 3"):
        windows(found, 8, 3, 1)


class Counted(list):
    """A list that counts how many of its items are looked at."""

    looks = 0

    def __iter__(self) -> Iterator:
        self.looks += len(self)
        return super().__iter__()

    def __getitem__(self, i) -> object:
        self.looks += 1
        return super().__getitem__(i)


def test_windows_of_a_megabyte_take_work_in_proportion() -> None:
    """A few looks at each token of the text and of the pieces; no piece looks at all tokens."""
    n = 180_000
    rest = Counted([None, *[0] * 9, *[1] * n, None])
    long = Encoded([*range(n + 11)], [0] * (n + 11), [(0, 0)] * (n + 11), rest, [None] * (n + 11))
    pieces = windows(long, 40, 20, 1)
    assert rest.looks <= 3 * (len(long) + sum(map(len, pieces)))
    assert len(pieces) == 1 + -(-(n - 29) // 9) and pieces[1].ids == [*range(10), *range(19, 48), n + 10]


def test_windows_that_would_be_endless_are_refused() -> None:
    n = MAX_READ // 384 + 400
    long = Encoded([*range(n)], [0] * n, [(0, 0)] * n, [0] * n, [None] * n)
    assert len(windows(long, 384, 382, 0)) == 1 + -(-(n - 384) // 2)
    with pytest.raises(ContextLengthError, match=f"expected at most {MAX_READ}"):
        windows(long, 384, 383, 0)


def test_what_is_no_text(tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError, match="the second text has a lone surrogate at character 1"):
        tokenizer.encode_pair("a", "a\ud800")
    with pytest.raises(RequestError, match="text is of type int"):
        tokenizer.encode_pair(3)  # type: ignore[arg-type]


def test_texts_together_are_each_by_itself(tokenizer: Tokenizer) -> None:
    texts = ["the cat", "", "a dog ran on the mat", "the cat"]
    assert tokenizer.encode_texts(texts) == [tokenizer.encode_pair(text) for text in texts]
    assert tokenizer.encode_texts([]) == []
    with pytest.raises(RequestError, match="text has a lone surrogate at character 0"):
        tokenizer.encode_texts(["the cat", "\ud800"])
