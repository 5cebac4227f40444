"""SentencePiece's normalizer: which characters are replaced with which, at each place the longest that is known.

Kudo & Richardson 2018, "SentencePiece", section 3.2. The `Precompiled` normalizer of the tokenizers package looks at
whole graphemes instead, and loses a combining mark that follows a character with a replacement (`½` with an accent).

The bytes: the size of a trie in bytes (uint32), the trie, and the replacements, each UTF-8 that ends with a zero. The
trie is a double array (Aoe 1989, in the layout of Darts-clone): from the unit at `at`, a byte leads to the unit at
`at ^ offset(unit) ^ byte`, if that one has the byte as its label.
"""

from __future__ import annotations

import struct
from pathlib import Path

from tokenizers import NormalizedString

from lepton_edge.errors import TokenizerError

LEAF = 1 << 8
VALUE = (1 << 31) - 1
LABEL = 1 << 31 | 255
INSIDE = frozenset(bytes([byte]) for byte in range(0x80, 0xC0))  # what goes on in a character of UTF-8


class Charsmap:
    """A normalizer for `tokenizers.normalizers.Normalizer.custom`."""

    def __init__(self, raw: bytes, path: Path) -> None:
        """Raises TokenizerError where the bytes are no such map; `path` is where they come from.

        All is checked here, as the tokenizers package goes on without a word when `normalize` raises.
        """
        size = struct.unpack_from("<I", raw)[0] if len(raw) >= 4 else 0
        if not 4 <= size <= len(raw) - 4 or size % 4:
            raise TokenizerError(f"{path}: the map of characters has {len(raw)} bytes, its trie {size}; copy it again")
        self._trie = struct.unpack_from(f"<{size // 4}I", raw, 4)
        self._texts = raw[4 + size :]
        if not self._sound():
            raise TokenizerError(f"{path}: the map of characters is damaged; copy the file again")

    def _sound(self) -> bool:
        """Whether every value is where a text begins, and all texts are UTF-8 and end."""
        try:
            self._texts.decode()
        except UnicodeDecodeError:
            return False
        trie, texts = self._trie, self._texts
        leaves = [at ^ _offset(unit) for at, unit in enumerate(trie) if unit & LEAF and not unit >> 31]
        return texts[-1:] == b"\0" and all(
            at < len(trie) and (value := trie[at] & VALUE) < len(texts) and texts[value] & 0xC0 != 0x80 for at in leaves
        )

    def normalize(self, string: NormalizedString) -> None:
        """Replace the string's text, as the tokenizers package asks for it."""
        text = string.normalized
        replaced = self.replace(text)
        if replaced != text:
            string.clear()
            string.append(replaced)

    def replace(self, text: str) -> str:
        """The text with its replacements."""
        data = text.encode()
        parts: list[bytes] = []
        at = begin = 0
        while at < len(data):
            length, value = self._longest(data, at)
            if length:
                parts += data[begin:at], self._texts[value : self._texts.index(0, value)]
                at = begin = at + length
            else:
                at += 1
                while data[at : at + 1] in INSIDE:
                    at += 1
        return b"".join([*parts, data[begin:]]).decode()

    def _longest(self, data: bytes, start: int) -> tuple[int, int]:
        """How many bytes from `start` are the longest key, of whole characters, and its value; (0, 0): none."""
        trie = self._trie
        found = (0, 0)
        at = _offset(trie[0])
        for index in range(start, len(data)):
            at ^= data[index]
            if at >= len(trie) or trie[at] & LABEL != data[index]:
                break
            unit = trie[at]
            at ^= _offset(unit)
            if unit & LEAF and data[index + 1 : index + 2] not in INSIDE:
                found = (index + 1 - start, trie[at] & VALUE)
        return found


def _offset(unit: int) -> int:
    return unit >> 10 << ((unit & 1 << 9) >> 6)
