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


class Charsmap:
    """A normalizer for `tokenizers.normalizers.Normalizer.custom`."""

    def __init__(self, raw: bytes, path: Path) -> None:
        """Raises TokenizerError where the bytes are no such map; `path` is where they come from."""
        size = struct.unpack_from("<I", raw)[0] if len(raw) >= 4 else 0
        if not 4 <= size <= len(raw) - 4 or size % 4:
            raise TokenizerError(f"{path}: the map of characters has {len(raw)} bytes, its trie {size}; copy it again")
        self._trie = struct.unpack_from(f"<{size // 4}I", raw, 4)
        self._texts = raw[4 + size :]
        self._path = path

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
                parts += data[begin:at], self._text(value)
                at = begin = at + length
            else:
                at += 1
                while at < len(data) and data[at] & 0xC0 == 0x80:  # to the next character
                    at += 1
        return b"".join([*parts, data[begin:]]).decode()

    def _longest(self, data: bytes, start: int) -> tuple[int, int]:
        """How many bytes from `start` are the longest key, and its value; (0, 0) if there is none."""
        trie = self._trie
        found = (0, 0)
        at = _offset(trie[0])
        for index in range(start, len(data)):
            at ^= data[index]
            if at >= len(trie) or trie[at] & LABEL != data[index]:
                break
            unit = trie[at]
            at ^= _offset(unit)
            if unit & LEAF and at < len(trie):
                found = (index + 1 - start, trie[at] & VALUE)
        return found

    def _text(self, value: int) -> bytes:
        end = self._texts.find(b"\0", value)
        text = self._texts[value:end] if value <= end else b"\xff"
        try:
            text.decode()
        except UnicodeDecodeError:
            raise TokenizerError(f"{self._path}: the map of characters is damaged; copy the file again") from None
        return text


def _offset(unit: int) -> int:
    return unit >> 10 << ((unit & 1 << 9) >> 6)
