"""Translations and summaries: what an encoder-decoder writes after each source."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lepton_edge.errors import RequestError
from lepton_edge.generate.ids import token_ids
from lepton_edge.generate.params import MAX_TOKENS, SamplingParams, real, whole
from lepton_edge.generate.shared import Use
from lepton_edge.generate.stopping import cut
from lepton_edge.generate.stream import Followed, Piece, pieces
from lepton_edge.tasks.rows import answer_rows
from lepton_edge.tasks.texts import EMPTY
from lepton_edge.text.detokenizer import StrippedDetokenizer

if TYPE_CHECKING:
    from lepton_edge.generate.rules import Rules
    from lepton_edge.generate.shared import Sequence as Turn
    from lepton_edge.models.fields import Fields
    from lepton_edge.models.spec import ModelSpec
    from lepton_edge.tasks.mixin import Tasks

__all__ = ["folder_beams", "start_token", "summary", "translation", "with_language", "writing"]

LANGUAGE = re.compile(r"__[a-z]{2,3}__|[a-z]{2,3}_[A-Z]{2}|[a-z]{3}_[A-Z][a-z]{3}")  # M2M100, mBART, NLLB
MAX_BEAMS = 32
MAX_LENGTH = 1 << 20
MAX_PENALTY = 5.0  # MAX_LENGTH to this power is a float32

Ids = NDArray[np.int32]


def translation(model: Tasks, source: str | None, target: str | None, **options: Any) -> Writing:
    """How `Tasks.translate` writes; options: of `writing`."""
    if need_pair(model).family == "t5":
        if (source is None) != (target is None):
            raise RequestError("T5 is told both languages, or none; expected source and target, such as 'English'")
        prefix = f"translate {source} to {target}: " if source is not None else ""
        return writing(model, prefix=prefix, **options)
    first = None if target is None else _language(model, "target", target)
    given = None if source is None else _language(model, "source", source)
    return writing(model, language=given, forced_first=first, **options)


def summary(model: Tasks, **options: Any) -> Writing:
    """How `Tasks.summarize` writes; options: of `writing`."""
    need_pair(model)
    told = model._checkpoint.config.get("task_specific_params")
    task = told.get("summarization") if isinstance(told, Mapping) else None
    prefix = task.get("prefix", "") if isinstance(task, Mapping) else ""
    if not isinstance(prefix, str):
        raise _fields(model).error("task_specific_params", "a text as the prefix of summarization")
    return writing(model, prefix=prefix, **options)


def need_pair(model: Tasks) -> ModelSpec:
    """The spec of an encoder-decoder.  RequestError for another model."""
    if model.spec.encoder is None:
        raise RequestError(f"the model {model.folder.name} has no encoder and decoder; load a T5, Bart or Marian model")
    return model.spec


@dataclass(frozen=True)
class Writing:
    """`rows.Work`: what an encoder-decoder writes after each source, a text or token ids.

    prefix, language: before each text, or in its language's place.  rules, stop: where a text ends.  beams: texts that
    are followed at a time.  search: what `run` does with the sources; follow: what `stream` does with one.
    """

    model: Tasks
    prefix: str
    language: int | None
    rules: Rules
    stop: tuple[str, ...]
    beams: int
    search: Callable[[Sequence[Ids]], list[list[int]]]
    follow: Callable[[Turn, Ids], Followed]

    def answers(self, texts: Any, batch_size: int, errors: str, progress: Any) -> Any:
        """Of one, a list, or an iterable, as of `answer_rows`."""
        return answer_rows(self, texts, batch_size=batch_size, errors=errors, progress=progress)

    def stream(self, row: Any, adapter: str | Use | None = None) -> Generator[Piece, None, None]:
        """The answer in pieces, which are those of `Model.stream`.  RequestError for what is wrong, at once."""
        if self.beams > 1:
            raise RequestError(
                f"{self.beams} beams (of num_beams in the model's folder, unless asked for): which one it will be is "
                "known at the end only; use stream_translate or stream_summarize with beams=1, or, for the whole text, "
                "generate, translate or summarize"
            )
        turn = self.model._shared.begin(adapter=adapter)
        tokens = self.follow(turn, self.prepare(row))
        text = StrippedDetokenizer(self.model.tokenizer.stream())
        return pieces(tokens, text, self.stop, self.rules.ends, self.rules.most)

    def prepare(self, row: Any) -> Ids:
        model, encoder = self.model, self.model.spec.encoder
        assert encoder is not None
        if isinstance(row, str):
            row = with_language(model, model.tokenizer.encode(self.prefix + row), self.language)
            if not row:
                raise RequestError(EMPTY)
        elif isinstance(row, bytes | Mapping) or (isinstance(row, list | tuple) and str in map(type, row)):
            raise RequestError(f"the text is {reprlib.repr(row)}; expected a string, or token ids")
        return token_ids("the text", row, encoder.vocab, model._shared.engine.context)

    def run(self, ready: Sequence[Ids]) -> list[str]:
        return [cut(self.model.tokenizer.decode(row).strip(), self.stop) for row in self.search(ready)]


def writing(
    model: Tasks, *, prefix: str = "", language: int | None = None, beams: int | None = None,
    max_tokens: int | None = None, forced_first: int | None = None, length_penalty: float | None = None,
    no_repeat_ngram_size: int | None = None, temperature: float | None = None, **sampling: Any,
) -> Writing:  # fmt: skip
    """How an encoder-decoder writes.

    What is None comes from generation_config.json, else config.json (num_beams, max_length, length_penalty, …).

    Args:
        prefix, language: of `Writing`.
        beams: texts that are followed at a time; 1: the likeliest token each time.
        max_tokens: new tokens, at most.
        forced_first: the id that a text begins with, such as that of its language.
        temperature: above 0: texts are drawn; then there are no beams.  sampling: top_k, top_p, min_p, repeat_penalty,
            seed and stop, see `SamplingParams`.
    Raises:
        RequestError: an argument is wrong, or the model is no encoder-decoder.
        ConfigError: the folder's files are wrong.
    """
    from lepton_edge.generate.pairs import beam_search, follow, sample

    need_pair(model)
    fields = _fields(model)
    count = _num_beams(fields) if beams is None else whole("beams", beams, 1)
    if count > MAX_BEAMS:
        raise RequestError(f"beams={count}: expected at most {MAX_BEAMS}")
    params = model.defaults.given(temperature=temperature, **sampling)
    if max_tokens is not None:
        max_tokens = whole("max_tokens", max_tokens, 1)
    rules = _rules(model, fields, max_tokens, forced_first, no_repeat_ngram_size, params)
    shared, prompt = model._shared, [start_token(model)]
    random = np.random.Generator(np.random.PCG64(params.seed))
    penalty = (
        fields.number("length_penalty", -MAX_PENALTY, MAX_PENALTY, default=1.0) if length_penalty is None
        else real("length_penalty", length_penalty, -MAX_PENALTY, MAX_PENALTY)
    )  # fmt: skip
    early = _early(fields)

    def search(sources: Sequence[Ids]) -> list[list[int]]:
        if params.temperature > 0:
            return sample(shared, sources, prompt, rules, params, random)
        return beam_search(shared, sources, prompt, rules, count, penalty, early)

    return Writing(
        model, prefix, language, rules, params.stop, 1 if params.temperature > 0 else count, search,
        lambda turn, source: follow(turn, source, prompt, rules, params, random),
    )  # fmt: skip


def _fields(model: Tasks) -> Fields:
    """generation_config.json, and config.json where that says nothing."""
    from lepton_edge.models.fields import Fields

    where = str(model.folder / "generation_config.json")
    return Fields({**model._checkpoint.config, **model._checkpoint.generation_config}, where)


def folder_beams(model: Tasks) -> int:
    """See `Tasks.beams`."""
    need_pair(model)
    return _num_beams(_fields(model)) if model.defaults.temperature == 0 else 1


def _num_beams(fields: Fields) -> int:
    return fields.integer("num_beams", 1, MAX_BEAMS, default=1)


def start_token(model: Tasks) -> int:
    """The id that an encoder-decoder's text begins with."""
    return _fields(model).integer("decoder_start_token_id", 0, model.spec.vocab - 1, default=model.spec.start)


def _early(fields: Fields) -> bool | str:
    """When a beam search ends, as the folder says: true, false or 'never'."""
    if not fields.is_text("early_stopping"):
        return fields.flag("early_stopping", default=False)
    if fields.text("early_stopping") != "never":
        raise fields.error("early_stopping", "true, false or 'never'")
    return "never"


def _rules(model: Tasks, fields: Fields, most: int | None, first: int | None, no_repeat: int | None,
           params: SamplingParams) -> Rules:  # fmt: skip
    """What the folder and the arguments say of the tokens of a text."""
    from lepton_edge.generate.rules import Rules

    last = model.spec.vocab - 1
    if most is None and fields.has("max_new_tokens"):
        most = fields.integer("max_new_tokens", 1, MAX_LENGTH)
    if most is None:
        most = fields.integer("max_length", 2, MAX_LENGTH, default=MAX_TOKENS + 1) - 1
    if first is not None:
        first = whole("forced_first", first, 0, last)
    elif fields.has("forced_bos_token_id"):
        first = fields.integer("forced_bos_token_id", 0, last)
    forced = fields.integer_or_none("forced_eos_token_id", 0, last)
    size = fields.integer("no_repeat_ngram_size", 0, 1 << 16, default=0) if no_repeat is None else no_repeat
    bad = tuple(tuple(ids) for ids in fields.items("bad_words_ids", []) if isinstance(ids, list) and ids)
    never = tuple(fields.items("suppress_tokens", []))
    if not all(type(token) is int and 0 <= token <= last for ids in (*bad, never) for token in ids):
        raise fields.error("bad_words_ids", f"lists of token ids from 0 to {last}; so is suppress_tokens")
    least = max(0, fields.integer("min_length", 0, MAX_LENGTH, default=0) - 1)
    return Rules(
        frozenset(i for i in model.tokenizer.eos_ids if i <= last), min(most, model._shared.engine.context - 1), least,
        first, forced, whole("no_repeat_ngram_size", size, 0), bad, never, params.repeat_penalty,
    )  # fmt: skip


def _language(model: Tasks, name: str, code: str) -> int:
    """The id of a language's token."""
    for spelled in (code, f"__{code}__") if isinstance(code, str) else ():
        found = model.tokenizer.added_id(spelled)
        if found is not None and LANGUAGE.fullmatch(spelled):
            return found
    raise RequestError(
        f"{name} is {reprlib.repr(code)}, which is no language of {model.folder.name}; expected a code that its "
        "tokenizer.json has as an added token, such as en_XX, eng_Latn or en; a model of one pair needs none"
    )


def with_language(model: Tasks, ids: list[int], language: int | None) -> list[int]:
    """A source that says its language where the tokenizer's own one says another, or else in front."""
    if language is None:
        return ids
    places = [i for i in sorted({0, len(ids) - 1}) if ids and LANGUAGE.fullmatch(model.tokenizer.token(ids[i]))]
    return [*ids[: places[0]], language, *ids[places[0] + 1 :]] if places else [language, *ids]
