"""A text, or two, as an encoder reads them: special tokens, token types, and where in the text each token lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lepton_edge.errors import ContextLengthError

__all__ = ["MAX_READ", "Encoded", "cut", "cut_longest", "windows"]

MAX_READ = 1 << 22  # tokens of all pieces of a text: 200 MB of lists, and a quarter of an hour for a small model


@dataclass(frozen=True)
class Encoded:
    """The tokens of a text or of two, one entry of each list for a token.

    Attributes:
        ids: token ids.
        types: token types: usually 0, and 1 for the second text and the token that ends it.
        offsets: (first, last + 1) characters of its text; (0, 0) for a special token.
        texts: 0 for the first text, 1 for the second, None for a token that the tokenizer puts around them.
        words: number of the word that the token is part of, as the tokenizer cuts its text; None where it is in none.
    """

    ids: list[int]
    types: list[int]
    offsets: list[tuple[int, int]]
    texts: list[int | None]
    words: list[int | None]

    def __len__(self) -> int:
        return len(self.ids)

    def count(self, text: int) -> int:
        """How many tokens one of the texts has."""
        return self.texts.count(text)

    def take(self, keep: Sequence[int]) -> Encoded:
        """Some of the tokens, by their places."""
        return Encoded(
            [self.ids[i] for i in keep],
            [self.types[i] for i in keep],
            [self.offsets[i] for i in keep],
            [self.texts[i] for i in keep],
            [self.words[i] for i in keep],
        )


def cut(encoded: Encoded, limit: int, text: int = 0) -> Encoded:
    """At most `limit` tokens: one of the texts loses its last ones; what stands around the texts stays.

    Raises:
        ContextLengthError: what is left is longer, even without that text.
    """
    return _keep(encoded, limit, {text: encoded.count(text) - max(len(encoded) - limit, 0)})


def cut_longest(encoded: Encoded, limit: int) -> Encoded:
    """As `cut`, but of two texts the longer one is cut, and both to the same length where that is not enough.

    This is the rule `longest_first` of transformers' tokenizers.
    """
    one, two = encoded.count(0), encoded.count(1)
    room = limit - (len(encoded) - one - two)
    if not two or one + two <= room:
        return cut(encoded, limit)
    low, high = sorted((one, two))
    high = low if low > room else max(low, room - low)
    if low + high > room:
        low, high = room // 2, room // 2 + room % 2
    return _keep(encoded, limit, {0: high, 1: low} if one > two else {0: low, 1: high})


def windows(encoded: Encoded, limit: int, stride: int, text: int) -> list[Encoded]:
    """The whole of a long text in pieces of at most `limit` tokens each, with all the rest around each piece.

    Neighbouring pieces share `stride` tokens.  Raises ContextLengthError where no token more than these fits, or the
    pieces would have more than MAX_READ tokens together.
    """
    places = [i for i, owner in enumerate(encoded.texts) if owner == text]
    if len(encoded) <= limit:
        return [encoded]
    rest = len(encoded) - len(places)
    room = limit - rest
    if room <= stride:
        raise ContextLengthError(
            f"of {limit} tokens, {rest} are for the other text and special tokens, and neighbouring pieces share "
            f"{stride}; nothing is left for the rest; shorten the other text, or make stride smaller"
        )
    if (read := -(-len(places) // (room - stride)) * limit) > MAX_READ:
        raise ContextLengthError(
            f"in pieces of {limit} tokens that share {stride}, the text is {read} tokens to read; expected at most "
            f"{MAX_READ}; cut it into several texts, shorten the other one, or make stride smaller"
        )
    made, before = [], range(places[0])
    after = [i for i in range(places[0], len(encoded)) if encoded.texts[i] != text]
    for start in range(0, len(places), room - stride):
        made.append(encoded.take([*before, *places[start : start + room], *after]))
        if start + room >= len(places):
            break
    return made


def _keep(encoded: Encoded, limit: int, most: dict[int, int]) -> Encoded:
    """So many first tokens of some texts, and all of the others."""
    if len(encoded) <= limit:
        return encoded
    if any(count < 0 for count in most.values()):
        raise ContextLengthError(
            f"the tokens that may not be cut are more than the {limit} that fit; shorten the text that goes with it"
        )
    keep, seen = [], dict.fromkeys(most, 0)
    for i, owner in enumerate(encoded.texts):
        if owner in seen:
            seen[owner] += 1
            if seen[owner] > most[owner]:
                continue
        keep.append(i)
    return encoded.take(keep)
