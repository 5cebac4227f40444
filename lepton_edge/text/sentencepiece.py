"""SentencePiece from a `tokenizer.model` (Llama, Mistral, Gemma, T5), BPE and unigram.

Kudo & Richardson 2018, "SentencePiece", section 3: text is normalized, spaces become `▁`, and pieces are found in the
whole of it. Unigram: Kudo 2018, "Subword Regularization", section 3.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import tokenizers
from tokenizers import (
    AddedToken,
    NormalizedString,
    PreTokenizedString,
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
)

from lepton_edge.text.charsmap import Charsmap
from lepton_edge.text.package import package_errors
from lepton_edge.text.sentencepiece_file import Piece, SentencePieceModel, Type, read_model
from lepton_edge.text.settings import Rules, Settings, numbered

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
BEGIN = "\uffff"  # stands for spaces at the beginning of a part until it is known whether the text begins there
LEADING = 1000  # spaces at the beginning of a text that decoding leaves out, where encoding does
LLAMA = Rules({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}, begin="bos_token")
GEMMA = Rules(
    {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}, begin="bos_token"
)
T5 = Rules({"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}, end="eos_token")
CLASSES = {"LlamaTokenizer": LLAMA, "CodeLlamaTokenizer": LLAMA, "GemmaTokenizer": GEMMA, "T5Tokenizer": T5}
MODEL_TYPES = {
    "llama": "LlamaTokenizer", "mistral": "LlamaTokenizer", "mixtral": "LlamaTokenizer", "phi3": "LlamaTokenizer",
    "minicpm": "LlamaTokenizer", "gemma": "GemmaTokenizer", "gemma2": "GemmaTokenizer",
    "gemma3_text": "GemmaTokenizer", "t5": "T5Tokenizer",
}  # fmt: skip


def read(path: Path, settings: Settings) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    """The tokenizer of a tokenizer.model, and its special tokens by name.

    Where tokenizer_config.json does not say `"legacy": false`, the text after each special token gets a space before it
    as the beginning of the text does: so have tokenizers done that were saved before there was that option.

    Raises:
        TokenizerError: a file is damaged, or no class says what goes around a text.
    """
    rules = settings.rules(CLASSES, MODEL_TYPES, path)
    settings.refuse("sp_model_kwargs", {})
    model = read_model(path)
    added = settings.added(raw=True)  # normalized text has no spaces that a token could take away
    if rules is T5:
        added = _extra_ids(settings.count("extra_ids", 100), len(model.pieces)) | added
    model = replace(model, pieces=_with_added(model.pieces, added, path))
    controls = {
        token_id: AddedToken(piece.string, special=True, normalized=False)
        for token_id, piece in enumerate(model.pieces)
        if piece.type in (Type.CONTROL, Type.UNKNOWN)
    }
    rules = replace(rules, special={**rules.special, **_ends(model, rules)})
    legacy = settings.flag("legacy", True)
    model = replace(model, add_prefix=model.add_prefix and settings.flag("add_prefix_space", True))
    with package_errors(path):
        backend = backend_of(model, path, legacy)
        settings.add_to(backend, (controls | added).values(), rules, path)
        return backend, settings.special(rules)


class Beginning:
    """A pre-tokenizer for `PreTokenizer.custom`: a space before the text, and none after special tokens in it.

    Metaspace's "first" goes by offsets: it misses the beginning where the normalizer took something away there.
    """

    def __init__(self, collapse: bool) -> None:
        self._collapse = collapse

    def pre_tokenize(self, text: PreTokenizedString) -> None:
        """Edit a text that is cut at special tokens, as the tokenizers package asks for it."""
        text.split(self._edit)

    def _edit(self, index: int, part: NormalizedString) -> list[NormalizedString]:
        if self._collapse:
            part.replace(Regex(rf"\A{BEGIN}"), SPACE if index else "")
        if index == 0 and part.normalized:
            part.prepend(SPACE)
        return [part]


def backend_of(model: SentencePieceModel, path: Path, legacy: bool) -> tokenizers.Tokenizer:
    """A SentencePiece tokenizer, without added tokens.

    Args:
        model: checked.
        path: where it comes from, for errors.
        legacy: the text after each special token gets a space before it, not only the beginning.
    """
    backend = tokenizers.Tokenizer(_bpe(model) if model.bpe else _unigram(model))
    steps: list[normalizers.Normalizer] = []
    if model.charsmap:
        steps.append(normalizers.Normalizer.custom(Charsmap(model.charsmap, path)))
    ends: list[normalizers.Normalizer] = []
    if model.collapse:
        begin = "" if legacy or not model.add_prefix else BEGIN
        steps += [normalizers.Replace(Regex(r"\A +"), begin), normalizers.Replace(Regex(" {2,}"), " ")]
        ends = [normalizers.Replace(Regex(rf"{SPACE}+\z"), "")]  # a `▁` of the text itself goes too
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE), *ends])
    backend.pre_tokenizer = pre_tokenizers.Sequence(_cuts(model, legacy))
    steps_back: list[decoders.Decoder] = [decoders.Replace(SPACE, " ")]
    if model.byte_fallback:
        steps_back.append(decoders.ByteFallback())
    steps_back.append(decoders.Fuse())
    if model.add_prefix or model.collapse:
        steps_back.append(decoders.Strip(" ", LEADING if model.collapse else 1, 0))
    backend.decoder = decoders.Sequence(steps_back)
    return backend


def ranked_merges(ranks: Mapping[str, float], strings: Iterable[str]) -> list[tuple[str, str]]:
    """Merges that do what joining by rank does: always the two neighbours that make the token of the lowest rank.

    Args:
        ranks: of each token that may be joined or be made by joining.
        strings: those whose halves are looked for.
    """
    found = [
        (ranks[string], order, string[:cut], string[cut:])
        for order, string in enumerate(strings)
        for cut in range(1, len(string))
        if string[:cut] in ranks and string[cut:] in ranks
    ]
    return [(left, right) for _, _, left, right in sorted(found, key=lambda merge: merge[:2])]


def _extra_ids(count: int, first: int) -> dict[int, AddedToken]:
    """T5's `<extra_id_0>` and so on, the last of which comes first."""
    names = (f"<extra_id_{index}>" for index in reversed(range(count)))
    return {first + index: AddedToken(name, special=True) for index, name in enumerate(names)}


def _with_added(pieces: Sequence[Piece], added: Mapping[int, AddedToken], path: Path) -> tuple[Piece, ...]:
    """The pieces and added tokens by id. One that has a piece's id takes its place: files keep some free for this."""
    named = {token_id: token.content for token_id, token in added.items()}
    strings = numbered({token_id: piece.string for token_id, piece in enumerate(pieces)} | named, path)
    renamed = [replace(piece, string=string) for piece, string in zip(pieces, strings, strict=False)]
    return (*renamed, *(Piece(string, 0.0, Type.CONTROL) for string in strings[len(pieces) :]))


def _bpe(model: SentencePieceModel) -> models.Model:
    ranks = {piece.string: -piece.score for piece in model.pieces if piece.type is Type.NORMAL}
    return models.BPE(
        {piece.string: token_id for token_id, piece in enumerate(model.pieces)},
        ranked_merges(ranks, ranks),
        unk_token=_unknown(model.pieces),
        fuse_unk=True,
        byte_fallback=model.byte_fallback,
        ignore_merges=bool(_whole(model)),
    )


def _unigram(model: SentencePieceModel) -> models.Model:
    unknown = next(token_id for token_id, piece in enumerate(model.pieces) if piece.type is Type.UNKNOWN)
    return models.Unigram([(piece.string, piece.score) for piece in model.pieces], unknown, model.byte_fallback)


def _cuts(model: SentencePieceModel, legacy: bool) -> list[pre_tokenizers.PreTokenizer]:
    """The space before a text, and user-defined pieces cut out of it, which are then found whole.

    The spaces of the text have become `▁` by now, so the first Metaspace meets none and always puts its own; one for
    `▁` would leave a part that begins with a space without it. Unigram would take `<0x41>` in a text for the byte.
    """
    cuts: list[pre_tokenizers.PreTokenizer] = []
    if model.add_prefix and legacy:
        cuts.append(pre_tokenizers.Metaspace(" ", "always", split=False))
        cuts.append(pre_tokenizers.Metaspace(SPACE, "never", split=False))
    elif model.add_prefix:
        cuts.append(pre_tokenizers.PreTokenizer.custom(Beginning(model.collapse)))
    if model.byte_fallback and not model.bpe:
        cuts.append(pre_tokenizers.Split(Regex("<(?=0x[0-9A-F]{2}>)"), "merged_with_previous"))
    if whole := _whole(model):
        longest_first = sorted(whole, key=len, reverse=True)
        cuts.append(pre_tokenizers.Split(Regex("|".join(map(re.escape, longest_first))), "isolated"))
    return cuts


def _whole(model: SentencePieceModel) -> Sequence[str]:
    return [piece.string for piece in model.pieces if piece.type is Type.USER_DEFINED]


def _unknown(pieces: Iterable[Piece]) -> str:
    return next(piece.string for piece in pieces if piece.type is Type.UNKNOWN)


def _ends(model: SentencePieceModel, rules: Rules) -> dict[str, str]:
    """The names that the file has for BOS and EOS, where the class has such tokens."""
    names = {"bos_token": model.bos, "eos_token": model.eos}
    strings = {piece.string for piece in model.pieces if piece.type is Type.CONTROL}
    return {name: string for name, string in names.items() if name in rules.special and string in strings}
