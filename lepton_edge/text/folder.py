"""Which file of a model folder holds its tokenizer, and what is made of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import tokenizers

from lepton_edge.errors import TokenizerError
from lepton_edge.text import byt5, byte_bpe, sentencepiece, tiktoken, word_piece
from lepton_edge.text.package import package_errors
from lepton_edge.text.settings import CONFIG, Rules, Settings

Made = tuple[tokenizers.Tokenizer, dict[str, str]]


def open_folder(folder: Path) -> tuple[tokenizers.Tokenizer, Path, dict[str, str]]:
    """The tokenizer of a folder: the backend, its file, and its special tokens by name ('bos_token').

    Raises:
        TokenizerError: there is none, or a file is damaged or of a kind that is not supported.
    """
    settings = Settings(folder)
    for names, read in SOURCES:
        if all((folder / name).is_file() for name in names):
            path = folder / names[0]
            backend, special = read(path, settings)
            return backend, path, special
    if settings.names_one_of(byt5.CLASSES):
        backend, special = byt5.read(folder / CONFIG, settings)
        return backend, folder / CONFIG, special
    parts = [name for names, _ in SOURCES for name in names if (folder / name).is_file()]
    only = f", only {', '.join(parts)}" if parts else ""
    raise TokenizerError(
        f"{folder / 'tokenizer.json'}: no such file{only}; expected the model's tokenizer: this file, or "
        "tokenizer.model, or vocab.json and merges.txt, or vocab.txt; copy it into the folder"
    )


def _json(path: Path, settings: Settings) -> Made:
    """tokenizer.json says everything by itself, but which tokens are BOS and EOS."""
    with package_errors(path):
        backend = tokenizers.Tokenizer.from_file(str(path))
        backend.no_truncation()
        backend.no_padding()
    return backend, settings.special(Rules())


def _model(path: Path, settings: Settings) -> Made:
    """Two kinds of file are called tokenizer.model."""
    return tiktoken.read(path, settings) if tiktoken.is_one(path) else sentencepiece.read(path, settings)


# The first whose files are all there is read.
SOURCES: tuple[tuple[tuple[str, ...], Callable[[Path, Settings], Made]], ...] = (
    (("tokenizer.json",), _json),
    (("tokenizer.model",), _model),
    (("spiece.model",), sentencepiece.read),
    (("vocab.json", "merges.txt"), byte_bpe.read),
    (("vocab.txt",), word_piece.read),
)
