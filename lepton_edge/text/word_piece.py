"""WordPiece from `vocab.txt` (BERT): Devlin et al. 2019, "BERT", section 3; a line is a token, its number the id."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from lepton_edge.errors import TokenizerError
from lepton_edge.text.package import package_errors, read_lines
from lepton_edge.text.settings import Rules, Settings, numbered

BERT = Rules(
    {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"},
    begin="cls_token",
    end="sep_token",
)
CLASSES = {name: BERT for name in ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer")}
MODEL_TYPES = {"bert": "BertTokenizer", "distilbert": "DistilBertTokenizer", "electra": "ElectraTokenizer",
               "mobilebert": "MobileBertTokenizer"}  # fmt: skip


def read(path: Path, settings: Settings) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    """The tokenizer of a vocab.txt, and its special tokens by name.

    Raises:
        TokenizerError: a file is damaged, or no class says that this is BERT's kind.
    """
    rules = settings.rules(CLASSES, MODEL_TYPES, path)
    settings.refuse("do_basic_tokenize", True)
    settings.refuse("never_split", [])
    added = settings.added()
    lines = dict(enumerate(read_lines(path)))
    strings = numbered(lines | {token_id: token.content for token_id, token in added.items()}, path)
    special = settings.special(rules)
    lowercase = settings.flag("do_lower_case", True)
    with package_errors(path):
        backend = backend_of(
            strings,
            special.get("unk_token", ""),
            path,
            lowercase=lowercase,
            strip_accents=settings.flag("strip_accents", lowercase),
            chinese=settings.flag("tokenize_chinese_chars", True),
        )
        settings.add_to(backend, added.values(), rules, path)
        return backend, special


def backend_of(
    strings: Sequence[str], unknown: str, path: Path, *, lowercase: bool, strip_accents: bool, chinese: bool = True
) -> tokenizers.Tokenizer:
    """A WordPiece tokenizer, without added tokens.

    Args:
        strings: the tokens by id; what goes on in a word begins with `##`.
        unknown: the token for a word that has no others.
        path: where the strings come from, for errors.
        lowercase, strip_accents: do so first.
        chinese: each Chinese character is a word.
    Raises:
        TokenizerError: `unknown` is no token.
    """
    if unknown not in strings:
        raise TokenizerError(f"{path}: has no token {unknown!r} for unknown words; expected one; copy the file again")
    model = models.WordPiece({string: token_id for token_id, string in enumerate(strings)}, unk_token=unknown)
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=chinese, strip_accents=strip_accents, lowercase=lowercase
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    return backend
