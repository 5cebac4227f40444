"""ByT5's tokenizer (arXiv:2105.13626), which no file holds: a token is a byte of UTF-8, after three special ones."""

from __future__ import annotations

from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from lepton_edge.text.detokenizer import byte_of_character
from lepton_edge.text.package import package_errors
from lepton_edge.text.settings import Rules, Settings

FIRST = ("<pad>", "</s>", "<unk>")
RULES = Rules({"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}, end="eos_token")
CLASSES = {"ByT5Tokenizer": RULES}
EXTRA = 125  # places of what is masked, behind the bytes


def read(path: Path, settings: Settings) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    """The tokenizer, and its special tokens by name; `path` is tokenizer_config.json.

    Raises:
        TokenizerError: a file is damaged, or no class says that this is ByT5's.
    """
    rules = settings.rules(CLASSES, {}, path)
    added = settings.added()
    if not added:
        added = {i: AddedToken(name, special=True, normalized=False, lstrip=True, rstrip=True)
                 for i, name in enumerate(FIRST)}  # fmt: skip
        behind = len(FIRST) + 256
        added |= {behind + i: AddedToken(f"<extra_id_{i}>", special=True, normalized=False)
                  for i in range(settings.count("extra_ids", EXTRA))}  # fmt: skip
    vocabulary = {character: byte + len(FIRST) for character, byte in byte_of_character().items()}
    vocabulary |= {token.content: i for i, token in added.items()}
    with package_errors(path):
        backend = tokenizers.Tokenizer(models.BPE(vocabulary, [], fuse_unk=False))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = decoders.ByteLevel()
        settings.add_to(backend, added.values(), rules, path)
    return backend, settings.special(rules)
