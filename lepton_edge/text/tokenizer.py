"""The tokenizer of a Hugging Face folder, through the `tokenizers` package.

`folder.py` finds the file that says how text becomes ids, special tokens around it included. `tokenizer_config.json`,
`special_tokens_map.json`, `generation_config.json` and `config.json` name the tokens that begin and end a text.
"""

from __future__ import annotations

import json
import operator
import reprlib
from collections.abc import Collection, Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, SupportsIndex

import tokenizers

from lepton_edge.errors import RequestError, TokenizerError
from lepton_edge.text.detokenizer import Detokenizer, PipelineDetokenizer, WholeDetokenizer, stages_of
from lepton_edge.text.folder import open_folder
from lepton_edge.text.package import package_errors
from lepton_edge.text.pairs import Encoded
from lepton_edge.text.settings import object_of


class Tokenizer:
    """Text to ids and back.

    Attributes:
        vocab_size: number of tokens that the tokenizer knows, added ones included.
        bos_id: the token that begins a text, or None.
        eos_ids: the tokens that end a text.
    """

    vocab_size: int
    bos_id: int | None
    eos_ids: frozenset[int]

    def __init__(
        self, backend: tokenizers.Tokenizer, path: Path, bos_id: int | None, eos_ids: frozenset[int], model_vocab: int
    ) -> None:
        self.vocab_size = backend.get_vocab_size(with_added_tokens=True)
        self.bos_id = bos_id
        self.eos_ids = eos_ids
        self._backend = backend
        self._path = path
        self._model_vocab = model_vocab
        added = backend.get_added_tokens_decoder()
        self._added = {token.content: token_id for token_id, token in added.items()}
        self._special = {token.content for token in added.values() if token.special}
        decoder = backend.decoder
        self._decoder = None if decoder is None else json.loads(decoder.__getstate__())

    @classmethod
    def load(cls, folder: str | PathLike[str], model_vocab: int = 0) -> Tokenizer:
        """Read the tokenizer of a model folder.

        Args:
            folder: a Hugging Face folder with a `tokenizer.json`, or the files that one can be made from.
            model_vocab: number of ids that the model knows, the rows of its embedding table; 0 if that does not matter.
                Where the table is larger, ids without a token decode to no text; where it is smaller, a text with a
                token that it lacks is refused.
        Raises:
            TokenizerError: no tokenizer, or a file is damaged or of a kind that is not supported.
        """
        backend, path, special = open_folder(Path(folder))
        with package_errors(path):
            bos_id, eos_ids = _begin_and_end(backend, path.parent, special)
            tokenizer = cls(backend, path, bos_id, eos_ids, model_vocab)
            unknown = tokenizer._unknown_to_model(backend.encode("").ids)
        if unknown is not None:
            raise TokenizerError(
                f"{path}: puts the token {tokenizer.token(unknown)!r} with the id {unknown} around each text, but the "
                f"model knows 0 to {model_vocab - 1}; expected the tokenizer of this model; copy its files again"
            )
        return tokenizer

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids of a text.

        Args:
            text: any text; special tokens written out in it become those tokens.
            special: add the tokens that the tokenizer puts around a text (BOS, EOS); never a second BOS.
        Raises:
            RequestError: not a string, or one that UTF-8 cannot express (a lone surrogate), or with a token that the
                model does not have.
        """
        _check_text("text", text)
        ids = self._encode(text, special)
        if special and self.bos_id is not None and ids[:2] == [self.bos_id] * 2:
            bare = self._encode(text, special=False)
            if bare[:1] == [self.bos_id] and len(bare) < len(ids):
                ids = ids[1:]
        self._check_known(ids)
        return ids

    def encode_pair(self, text: str, pair: str | None = None) -> Encoded:
        """A text, or two, with the tokens that the tokenizer puts around them, and where each token comes from.

        Raises:
            RequestError: as of `encode`.
        """
        _check_text("text", text)
        if pair is not None:
            _check_text("the second text", pair)
        with package_errors(self._path):
            found = self._backend.encode(text, pair)
        return self._encoded(found)

    def encode_texts(self, texts: Sequence[str]) -> list[Encoded]:
        """`encode_pair` of each text, together: the package shares them out to the cores.  Errors as of `encode`."""
        for text in texts:
            _check_text("text", text)
        with package_errors(self._path):
            found = self._backend.encode_batch(list(texts))
        return [self._encoded(one) for one in found]

    def _encoded(self, found: Any) -> Encoded:
        self._check_known(found.ids)
        return Encoded(found.ids, found.type_ids, found.offsets, found.sequence_ids, found.word_ids)

    def decode(self, ids: Iterable[SupportsIndex], special: bool = False) -> str:
        """Text of token ids, as the tokenizer's own decoder gives it.

        Args:
            ids: token ids.
            special: keep the text of special tokens.
        Raises:
            RequestError: an id outside the vocabulary.
        """
        checked = [self._check(token_id) for token_id in ids]
        with package_errors(self._path):
            return self._backend.decode(checked, skip_special_tokens=not special)

    def stream(self, prefix: Iterable[SupportsIndex] = (), special: bool | Collection[str] = False) -> Detokenizer:
        """Text one token at a time; the pieces of `push` and `flush`, joined, equal `decode` of all the ids.

        Args:
            prefix: ids before the first one. Their text does not come again; it decides about a leading space.
            special: keep the text of special tokens: of all, or of those that are named.
        Raises:
            RequestError: an id of `prefix` is outside the vocabulary.
        """
        before = [self._check(token_id) for token_id in prefix]
        stages = stages_of(self._decoder)
        hidden = self._special.difference(self._special if special is True else special or ())

        def string_of(token_id: int) -> str | None:
            string = self._backend.id_to_token(self._check(token_id))
            return None if string in hidden else string

        if stages is None:
            return WholeDetokenizer(
                lambda ids: self.decode([i for i in ids if string_of(i) is not None], special=True), before
            )
        return PipelineDetokenizer(stages, string_of, before)

    def added_id(self, string: str) -> int | None:
        """The id of an added token, special or not, that is spelled so; None where there is none."""
        return self._added.get(string)

    @property
    def marks_parts(self) -> bool:
        """Whether the vocabulary tells parts of words from their beginnings, as BERT's `##ing` does."""
        return bool(getattr(self._backend.model, "continuing_subword_prefix", None))

    def id_of(self, string: str) -> int | None:
        """The id of the token that is spelled so; None where there is none."""
        return self._backend.token_to_id(string)

    def join(self, tokens: list[str]) -> str:
        """The text of tokens that are given as strings."""
        decoder = self._backend.decoder
        with package_errors(self._path):
            return " ".join(tokens) if decoder is None else decoder.decode(tokens)

    def token(self, token_id: SupportsIndex) -> str:
        """The token's own string, as the vocabulary spells it (`Ġthe`, `▁the`, `<0x0A>`).

        Raises:
            RequestError: no such token.
        """
        checked = self._check(token_id)
        string = self._backend.id_to_token(checked)
        if string is None:
            raise RequestError(f"token id {checked} stands for no token of {self._path}")
        return string

    def _encode(self, text: str, special: bool) -> list[int]:
        with package_errors(self._path):
            return list(self._backend.encode(text, add_special_tokens=special).ids)

    def _check_known(self, ids: list[int]) -> None:
        unknown = self._unknown_to_model(ids)
        if unknown is not None:
            raise RequestError(
                f"text has {self.token(unknown)!r}, token id {unknown}; this model knows 0 to {self._model_vocab - 1}; "
                "expected text without that token"
            )

    def _unknown_to_model(self, ids: list[int]) -> int | None:
        """An id that the model's embedding table has no row for."""
        return next((token_id for token_id in ids if token_id >= self._model_vocab > 0), None)

    def _check(self, token_id: SupportsIndex) -> int:
        try:
            number = operator.index(token_id)
        except TypeError:
            raise RequestError(f"token id is {reprlib.repr(token_id)}; expected a whole number") from None
        known = 0 <= number < self._model_vocab or (
            0 <= number < 1 << 32 and self._backend.id_to_token(number) is not None
        )
        if not known:
            size = max(self.vocab_size, self._model_vocab)
            raise RequestError(f"token id {number} is outside the vocabulary; expected 0 to {size - 1}")
        return number


def _check_text(name: str, text: object) -> None:
    if not isinstance(text, str):
        raise RequestError(f"{name} is of type {type(text).__name__}; expected a string")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"{name} has a lone surrogate at character {error.start}; expected text that UTF-8 can express"
        ) from None


def _begin_and_end(
    backend: tokenizers.Tokenizer, folder: Path, special: dict[str, str]
) -> tuple[int | None, frozenset[int]]:
    """The BOS id and the EOS ids: the tokens that the tokenizer's files name, and the ids that the model's files give.

    transformers ends a text at the model's ids only; a token that is called EOS is never meant as text either.
    """
    begin, end = (
        [] if (token_id := backend.token_to_id(special.get(name, ""))) is None else [token_id]
        for name in ("bos_token", "eos_token")
    )
    begin = begin or _ids(folder, "bos_token_id")
    return (begin[0] if begin else None), frozenset(end + _ids(folder, "eos_token_id"))


def _ids(folder: Path, field: str) -> list[int]:
    """One id or a list of them, from generation_config.json, else from config.json."""
    for path in (folder / "generation_config.json", folder / "config.json"):
        value = object_of(path).get(field)
        if value is None:
            continue
        ids = value if isinstance(value, list) else [value]
        if any(isinstance(item, bool) or not isinstance(item, int) or item < 0 for item in ids):
            raise TokenizerError(
                f"{path}: {field} is {reprlib.repr(value)}; expected a token id or a list of them; correct the file"
            )
        return ids
    return []
