"""tiktoken's file of ranks, which Llama 3 calls `tokenizer.model`: on each line a token's bytes in base64 and its rank.

The rank is the id, and of two neighbours those are joined first whose token has the lowest rank.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

import tokenizers

from lepton_edge.checkpoint.strict_json import brief
from lepton_edge.errors import TokenizerError
from lepton_edge.text.byte_bpe import backend_of, words_of
from lepton_edge.text.detokenizer import byte_of_character
from lepton_edge.text.package import package_errors, read_bytes, read_lines
from lepton_edge.text.sentencepiece import ranked_merges
from lepton_edge.text.settings import Rules, Settings, numbered

LLAMA3 = Rules({"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}, begin="bos_token")
CLASSES = {"Llama3Tokenizer": LLAMA3}
MODEL_TYPES = {"llama": "Llama3Tokenizer"}
MAX_TOKEN = 1000  # bytes


def is_one(path: Path) -> bool:
    """Whether the first line is base64, a space and a number; a SentencePiece model begins with a zero-width tag."""
    first = read_bytes(path)[:4096].split(b"\n")[0].rstrip(b"\r")
    token, space, rank = first.partition(b" ")
    return bool(token and space and rank.isdigit() and token.isascii())


def read(path: Path, settings: Settings) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    """The tokenizer of a file of ranks, and its special tokens by name; the folder must say that it is Llama 3's.

    Raises:
        TokenizerError: a file is damaged, or the model is another: only Llama 3's pattern is known.
    """
    rules = settings.rules(CLASSES, MODEL_TYPES, path)
    added = settings.added()
    ranks = read_ranks(path)
    listed = numbered(ranks | {token_id: token.content for token_id, token in added.items()}, path)
    order = {string: rank for rank, string in sorted(ranks.items())}
    with package_errors(path):
        merges = ranked_merges(order, order)
        backend = backend_of(listed, merges, words_of("llama3", False), False, path, ignore_merges=True)
        settings.add_to(backend, added.values(), rules, path)
        return backend, settings.special(rules)


def read_ranks(path: Path) -> dict[int, str]:
    """Token strings, spelled as in byte-level BPE, by rank.

    Raises:
        TokenizerError: a line is damaged, or a rank is there twice.
    """
    spelled = {byte: character for character, byte in byte_of_character().items()}
    ranks: dict[int, str] = {}
    for number, line in enumerate(read_lines(path), 1):
        token, _, rank = line.partition(" ")
        try:
            data = base64.b64decode(token, validate=True)
            key = int(rank) if rank.isascii() and rank.isdigit() and len(rank) < 10 else -1
        except (binascii.Error, ValueError):
            data, key = b"", -1
        if not 0 < len(data) <= MAX_TOKEN or key < 0 or key in ranks:
            raise TokenizerError(
                f"{path}: line {number} is {brief(line)}; expected a token's bytes in base64 and a rank that no other "
                "has; copy the file again"
            )
        ranks[key] = data.decode("latin-1").translate(spelled)
    return ranks
