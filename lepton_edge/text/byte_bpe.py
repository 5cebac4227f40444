"""Byte-level BPE from `vocab.json` and `merges.txt` (GPT-2, Qwen, RoBERTa).

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2: a text is cut into words by a
pattern, each byte of a word stands for a character, and merges join them. Only the class tells which pattern it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

from lepton_edge.checkpoint.strict_json import brief, read_object
from lepton_edge.errors import TokenizerError
from lepton_edge.text.detokenizer import byte_of_character
from lepton_edge.text.package import MAX_FILE_BYTES, package_errors, read_lines
from lepton_edge.text.settings import Rules, Settings, numbered

WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {"qwen2": WORDS.replace("DIGITS", ""), "llama3": WORDS.replace("DIGITS", "{1,3}")}

ASCII = range(ord(" "), ord("~") + 1)
END = "<|endoftext|>"
GPT2 = {"bos_token": END, "eos_token": END, "unk_token": END}
ROBERTA = {
    "bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "unk_token": "<unk>",
    "pad_token": "<pad>", "mask_token": "<mask>",
}  # fmt: skip


@dataclass(frozen=True)
class ByteRules(Rules):
    """`words` names how a text is cut: as GPT-2 does, 'digits' (and each digit by itself), or one of PATTERNS."""

    words: str = "gpt2"
    nfc: bool = False


CLASSES = {
    "GPT2Tokenizer": ByteRules(GPT2),
    "CodeGenTokenizer": ByteRules(GPT2),
    "GPTNeoXTokenizer": ByteRules({**GPT2, "pad_token": "<|padding|>"}, nfc=True),
    "Qwen2Tokenizer": ByteRules({"eos_token": END, "pad_token": END}, words="qwen2", nfc=True),
    "RobertaTokenizer": ByteRules(ROBERTA, begin="cls_token", end="sep_token"),
}
MODEL_TYPES = {
    "gpt2": "GPT2Tokenizer", "gpt_neo": "GPT2Tokenizer", "gptj": "GPT2Tokenizer", "opt": "GPT2Tokenizer",
    "gpt_bigcode": "GPT2Tokenizer", "starcoder2": "GPT2Tokenizer", "phi": "CodeGenTokenizer",
    "codegen": "CodeGenTokenizer", "gpt_neox": "GPTNeoXTokenizer", "qwen2": "Qwen2Tokenizer",
    "qwen2_moe": "Qwen2Tokenizer", "qwen3": "Qwen2Tokenizer", "qwen3_moe": "Qwen2Tokenizer",
    "roberta": "RobertaTokenizer",
}  # fmt: skip
# Models that call themselves GPT2Tokenizer, but cut digits off in tokenizer.json.
DIGITS = ("gpt_bigcode", "starcoder2")


def read(path: Path, settings: Settings) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    """The tokenizer of a vocab.json and the merges.txt beside it, and its special tokens by name.

    Raises:
        TokenizerError: a file is damaged, or no class says how a text is cut.
    """
    rules = settings.rules(CLASSES, MODEL_TYPES, path)
    words = _words(rules, settings, path)
    strings = {token_id: string for string, token_id in _vocabulary(path).items()}
    added = settings.added()
    listed = numbered(strings | {token_id: token.content for token_id, token in added.items()}, path)
    merges = read_merges(path.parent / "merges.txt", listed)
    with package_errors(path):
        backend = backend_of(listed, merges, words_of(words, settings.flag("add_prefix_space", False)), rules.nfc, path)
        settings.add_to(backend, added.values(), rules, path)
        return backend, settings.special(rules)


def backend_of(
    strings: Sequence[str],
    merges: Iterable[tuple[str, str]],
    words: pre_tokenizers.PreTokenizer,
    nfc: bool,
    path: Path,
    ignore_merges: bool = False,
) -> tokenizers.Tokenizer:
    """A byte-level BPE tokenizer, without added tokens.

    Args:
        strings: the tokens by id, bytes spelled as in GPT-2.
        merges: pairs of tokens, the first to be joined first.
        words: cuts a text and spells its bytes.
        nfc: compose characters before that (Unicode NFC).
        path: where the strings come from, for errors.
        ignore_merges: a word that is a token is that token, whatever the merges would make of it.
    Raises:
        TokenizerError: a printable character of ASCII has no token: this cannot be byte-level BPE.
    """
    vocabulary = {string: token_id for token_id, string in enumerate(strings)}
    # Trained vocabularies may lack bytes that their text never had (falcon: 28); text loses those, as in training.
    lacking = [byte for character, byte in byte_of_character().items() if character not in vocabulary and byte in ASCII]
    if lacking:
        raise TokenizerError(
            f"{path}: has no token for the byte {min(lacking):#04x}, nor for {len(lacking) - 1} other printable ones; "
            "expected one each; this is not byte-level BPE, or the file is cut"
        )
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, list(merges), ignore_merges=ignore_merges))
    backend.normalizer = normalizers.NFC() if nfc else None
    backend.pre_tokenizer = words
    backend.decoder = decoders.ByteLevel()
    return backend


def words_of(name: str, prefix_space: bool) -> pre_tokenizers.PreTokenizer:
    """What cuts a text into words: 'gpt2', 'digits' or a name of PATTERNS; `prefix_space` puts a space before it."""
    if name in PATTERNS:
        return pre_tokenizers.Sequence(split_by([PATTERNS[name]], prefix_space))
    digits = [pre_tokenizers.Digits(individual_digits=True)] if name == "digits" else []
    return pre_tokenizers.Sequence([*digits, pre_tokenizers.ByteLevel(prefix_space)])


def split_by(patterns: Iterable[str], prefix_space: bool = False) -> list[pre_tokenizers.PreTokenizer]:
    """Cut by one pattern after the other, then spell bytes."""
    cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    return [*cuts, pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=False)]


def read_merges(path: Path, strings: Iterable[str]) -> list[tuple[str, str]]:
    """The pairs of merges.txt, one on a line; a first line `#version` is none.

    Raises:
        TokenizerError: a line is no pair, is there twice, or joins tokens that the vocabulary does not have.
    """
    known = set(strings)
    merges: dict[tuple[str, str], None] = {}
    for number, line in enumerate(read_lines(path), 1):
        if number == 1 and line.startswith("#version"):
            continue
        left, space, right = line.partition(" ")
        wrong = next((token for token in (left, right, left + right) if token not in known), None)
        if not left or not right or not space or " " in right:
            raise TokenizerError(f"{path}: line {number} is {brief(line)}; expected two tokens with a space between")
        if wrong is not None:
            raise TokenizerError(
                f"{path}: line {number} needs the token {brief(wrong)}, which the vocabulary does not have; "
                "expected files of one tokenizer; copy both again"
            )
        if (left, right) in merges:
            raise TokenizerError(f"{path}: line {number} is {brief(line)}, which was there before; expected each once")
        merges[left, right] = None
    return list(merges)


def _vocabulary(path: Path) -> Mapping[str, int]:
    """vocab.json: token string to id. Raises TokenizerError for anything else, and for one id of two tokens."""
    vocabulary = read_object(path, TokenizerError, MAX_FILE_BYTES)
    seen: dict[int, str] = {}
    for string, token_id in vocabulary.items():
        if isinstance(token_id, bool) or not isinstance(token_id, int) or token_id < 0:
            raise TokenizerError(f"{path}: {brief(string)} has the id {brief(token_id)}; expected a whole number")
        if seen.setdefault(token_id, string) != string:
            raise TokenizerError(
                f"{path}: {brief(seen[token_id])} and {brief(string)} both have the id {token_id}; expected one each"
            )
    return vocabulary


def _words(rules: ByteRules, settings: Settings, path: Path) -> str:
    """How the text is cut. Models of many kinds call themselves GPT2Tokenizer: their model type must agree."""
    kind = settings.model_type
    if rules is not CLASSES["GPT2Tokenizer"] or kind is None:
        return rules.words
    if kind in DIGITS:
        return "digits"
    if not isinstance(kind, str) or MODEL_TYPES.get(kind) != "GPT2Tokenizer":
        raise TokenizerError(
            f"{path}: the class GPT2Tokenizer does not say how a model of type {brief(kind)} cuts text; expected a "
            "tokenizer.json beside it; save the tokenizer with transformers' save_pretrained, which writes it"
        )
    return rules.words
