"""`python tools/gguf_tokenizer.py MODEL.gguf FOLDER`: the tokenizer of a GGUF file as tokenizer.json.

The file begins with its metadata: key, type, value, as the GGUF specification lays them out (ggml, docs/gguf.md).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, pre_tokenizers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lepton_edge.errors import TokenizerError
from lepton_edge.text import byte_bpe, sentencepiece, word_piece
from lepton_edge.text.sentencepiece_file import Piece, SentencePieceModel, Type
from lepton_edge.text.settings import numbered, surround

STRING, ARRAY = 8, 9
NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
KEY = "tokenizer.ggml."
CASED = r"[\p{Lu}\p{Ll}\p{Lt}&&[^\x{10D0}-\x{10FF}]]"  # letters with case, Georgian's left out
CHINESE = r"[一-龥\x{0800}-一가-\x{D7FF}]+"


class Metadata:
    """The key-value part of a GGUF file, of versions 2 and 3. Raises TokenizerError where it is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._raw = path.read_bytes()
        self._at = 0
        try:
            if self._take(4) != b"GGUF" or self._number("<I") not in (2, 3):
                raise ValueError("not GGUF of version 2 or 3")
            self._number("<Q")  # tensors
            self.values = {self._string(): self._value(self._number("<I")) for _ in range(self._number("<Q"))}
        except (ValueError, KeyError) as error:
            raise TokenizerError(f"{path}: is no GGUF file that can be read ({error!r}); copy it again") from error

    def get(self, name: str, default: Any = None) -> Any:
        """The value of tokenizer.ggml.NAME."""
        return self.values.get(KEY + name, default)

    def _take(self, size: int) -> bytes:
        if size > len(self._raw) - self._at:
            raise ValueError(f"cut off at byte {self._at}")
        self._at += size
        return self._raw[self._at - size : self._at]

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _string(self) -> str:
        return self._take(self._number("<Q")).decode("utf-8")

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind != ARRAY:
            return self._number(NUMBERS[kind])
        inner, count = self._number("<I"), self._number("<Q")
        if inner == STRING:
            return [self._string() for _ in range(count)]
        size = struct.calcsize(NUMBERS[inner])
        return list(struct.unpack(f"<{count}{NUMBERS[inner][1:]}", self._take(count * size)))


def sequence(*steps: Any) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(list(steps))


def falcon() -> pre_tokenizers.PreTokenizer:
    """Punctuation off, then GPT-2's words, then digits off, three at a time."""
    return sequence(
        pre_tokenizers.Punctuation("contiguous"),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        pre_tokenizers.Digits(individual_digits=False),
        pre_tokenizers.Split(tokenizers.Regex("[0-9][0-9][0-9]"), "isolated"),
    )


def deepseek(*patterns: str) -> pre_tokenizers.PreTokenizer:
    """Line ends, then the patterns, then each digit by itself, then bytes."""
    *cuts, spell = byte_bpe.split_by([r"[\r\n]", *patterns])
    return sequence(*cuts, pre_tokenizers.Digits(individual_digits=True), spell)


# How models cut text into words, by `tokenizer.ggml.pre`, and whether they compose characters (NFC) before.
WORDS: dict[str, tuple[Callable[[], pre_tokenizers.PreTokenizer], bool]] = {
    "gpt-2": (lambda: byte_bpe.words_of("gpt2", False), False),
    "mpt": (lambda: byte_bpe.words_of("gpt2", False), True),
    "refact": (lambda: byte_bpe.words_of("digits", False), False),
    "starcoder": (lambda: byte_bpe.words_of("digits", False), False),
    "command-r": (lambda: byte_bpe.words_of("digits", False), True),
    "qwen2": (lambda: byte_bpe.words_of("qwen2", False), True),
    "llama-bpe": (lambda: byte_bpe.words_of("llama3", False), False),
    "falcon": (falcon, False),
    "deepseek-coder": (lambda: deepseek(r"\s?\p{L}+", r"\s?\p{P}+", CHINESE), False),
    "deepseek-llm": (
        lambda: deepseek(rf"\s?{CASED}+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", CHINESE),
        False,
    ),
}

# Files from before that key: how they cut words is known of the vocabularies whose merges have these digests.
KNOWN_MERGES = {
    "04e3597d7996f292": "gpt-2",
    "0a1f07b1d32153dc": "mpt",  # GPT-NeoX 20B's, Pythia's, MPT's
    "26a620e10c7991c8": "falcon",
    "8715d8d6d92d1b0c": "starcoder",
}


def tokenizer_of(path: Path) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    """The tokenizer of a GGUF file and its special tokens by name ('bos_token').

    Raises:
        TokenizerError: the file is damaged, or its tokenizer is of a kind that is not known.
    """
    data = Metadata(path)
    build = {"llama": _sentence_piece, "gpt2": _byte_bpe, "bert": _word_piece}.get(data.get("model"))
    tokens, types = data.get("tokens"), data.get("token_type")
    if build is None or not tokens or not types or len(tokens) != len(types):
        raise TokenizerError(f"{path}: has no tokenizer of the model llama, gpt2 or bert, but {data.get('model')!r}")
    backend = build(data, tokens, types)
    names = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "cls": "cls_token",
             "seperator": "sep_token", "padding": "pad_token", "mask": "mask_token"}  # fmt: skip
    ids = {name: data.get(f"{key}_token_id") for key, name in names.items()}
    special = {name: tokens[number] for name, number in ids.items() if number is not None and number < len(tokens)}
    plain = Type.USER_DEFINED if data.get("model") == "gpt2" else None
    added = (Type.CONTROL, Type.UNKNOWN, plain)
    kinds = [(token, kind) for token, kind in zip(tokens, types, strict=True) if kind in added]
    backend.add_tokens([AddedToken(token, special=kind != plain, normalized=False) for token, kind in kinds])
    begin, end = ("cls_token", "sep_token") if data.get("model") == "bert" else (
        "bos_token" if data.get("add_bos_token", data.get("model") == "llama") else "",
        "eos_token" if data.get("add_eos_token", False) else "",
    )
    surround(backend, [special[begin]] if begin in special else [], [special[end]] if end in special else [], path)
    return backend, special


def _byte_bpe(data: Metadata, tokens: list[str], types: list[int]) -> tokenizers.Tokenizer:
    pairs = data.get("merges", [])
    pre = data.get("pre") or KNOWN_MERGES.get(hashlib.sha256("\n".join(pairs).encode()).hexdigest()[:16])
    if pre not in WORDS:
        said = "does not say how it cuts words" if pre is None else f"cuts words as {pre!r}, which is not known"
        raise TokenizerError(f"{data.path}: {said}; expected {KEY}pre to be one of {', '.join(WORDS)}")
    words, nfc = WORDS[pre]
    merges = [tuple(merge.split(" ")) for merge in pairs]
    whole = pre == "llama-bpe"
    return byte_bpe.backend_of(numbered(dict(enumerate(tokens)), data.path), merges, words(), nfc, data.path, whole)


def _word_piece(data: Metadata, tokens: list[str], types: list[int]) -> tokenizers.Tokenizer:
    """GGUF marks beginnings of words with `▁`, where BERT marks what goes on with `##`."""
    plain = [token.startswith("[") and token.endswith("]") for token in tokens]
    tokens[:] = [
        token if same else token[1:] if token.startswith(sentencepiece.SPACE) else "##" + token
        for token, same in zip(tokens, plain, strict=True)
    ]
    unknown = tokens[data.get("unknown_token_id", 100)]
    return word_piece.backend_of(tokens, unknown, data.path, lowercase=True, strip_accents=True)


def _sentence_piece(data: Metadata, tokens: list[str], types: list[int]) -> tokenizers.Tokenizer:
    unknown = data.get("unknown_token_id", 0)
    kinds = [Type.UNKNOWN if token_id == unknown else Type.CONTROL if kind == Type.UNKNOWN else Type(kind)
             for token_id, kind in enumerate(types)]  # fmt: skip
    model = SentencePieceModel(
        pieces=tuple(map(Piece, numbered(dict(enumerate(tokens)), data.path), data.get("scores"), kinds)),
        bpe=True,
        byte_fallback=Type.BYTE in kinds,
        add_prefix=data.get("add_space_prefix", True),
        collapse=False,
    )
    model.check(data.path)
    return sentencepiece.backend_of(model, data.path, legacy=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    try:
        backend, special = tokenizer_of(arguments.model)
    except (TokenizerError, OSError) as error:
        sys.exit(f"gguf_tokenizer: {error}")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(arguments.folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (arguments.folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
