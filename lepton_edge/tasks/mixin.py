"""The tasks as methods: `api.Model` inherits them.  Each is a function of a module of its own, imported when used."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pathlib import Path

    from lepton_edge.checkpoint import Checkpoint
    from lepton_edge.generate.params import SamplingParams
    from lepton_edge.generate.shared import SharedEngine
    from lepton_edge.generate.stream import Piece
    from lepton_edge.models.spec import ModelSpec
    from lepton_edge.runtime.trace import Trace
    from lepton_edge.tasks.answer_fields import Answers
    from lepton_edge.tasks.sentence_folder import SentenceFolder
    from lepton_edge.text import Tokenizer

__all__ = ["Tasks"]

Progress = Callable[[int, int], None]


class Tasks:
    """What a loaded model can be asked to do with texts.

    Everywhere: one text gives one answer, a list of texts a list, and any other iterable a generator, which reads
    `batch_size` texts at a time.  errors: 'raise', or 'return', which gives {'error': message} for a text that cannot
    be answered, and loses no other.  progress: called with the numbers of texts done and in all.
    """

    if TYPE_CHECKING:
        _shared: SharedEngine
        _checkpoint: Checkpoint

        @property
        def folder(self) -> Path: ...
        @property
        def spec(self) -> ModelSpec: ...
        @property
        def defaults(self) -> SamplingParams: ...
        @property
        def context(self) -> int: ...
        @property
        def tokenizer(self) -> Tokenizer: ...
        def logits(self, token_ids: Any) -> NDArray[np.float32]: ...
        def run(
            self, sequences: Sequence[Any], segments: Sequence[Any] | None = None, hidden: bool = False
        ) -> list[NDArray[np.float32]]: ...

    @property
    def config(self) -> Mapping[str, Any]:
        """config.json, as it is."""
        return self._checkpoint.config

    @property
    def regression(self) -> bool:
        """Whether the head gives numbers that are no scores of labels."""
        return self.config.get("problem_type") == "regression"

    def named_token(self, name: str) -> int | None:
        """The id of the token that the folder's files call so ('mask_token'), or None."""
        from lepton_edge.text.settings import named_token

        string = named_token(self.folder, name)
        return None if string is None else self.tokenizer.id_of(string)

    @cached_property
    def token_types(self) -> bool:
        """Whether the model is told which of two texts a token is of: unless model_input_names lacks token_type_ids."""
        from lepton_edge.text.settings import input_names

        names = input_names(self.folder)
        return self.spec.segments > 1 and not self.spec.causal and (names is None or "token_type_ids" in names)

    @cached_property
    def sentence_folder(self) -> SentenceFolder:
        """How this model's folder says that texts are embedded. Raises ModelError."""
        from lepton_edge.tasks.sentence_folder import read_folder

        return read_folder(self.folder, self.spec.causal, self.spec.hidden)

    def embed(
        self,
        texts: str | Iterable[str],
        batch_size: int = 32,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        errors: str = "raise",
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """Vectors of texts: float32 [n, d], or [d] of one text, as sentence-transformers' `encode` gives them.

        Pooling, projections and lengths are those of the folder (modules.json); without them, the mean of an encoder's
        states, or a decoder's last one.  A head has no part in it.  A text longer than the folder's max_seq_length, or
        the context, is cut there.

        Args:
            batch_size: texts computed together; the result does not depend on it.
            normalize: True: vectors of length 1; False: never; None: as the folder says.
            truncate_dim: keep so many first numbers (arXiv:2205.13147); None: as the folder says.
            prompt: put before each text; prompt_name: the name of one of the folder's prompts; None: its default.
            errors: 'return' gives a row of NaN for a text that cannot be embedded.
        Raises:
            RequestError: an argument or a text is wrong.
            ModelError: the folder's settings are damaged or not supported.
        """
        from lepton_edge.tasks.embedding import embed

        return embed(
            self, texts, batch_size=batch_size, normalize=normalize, truncate_dim=truncate_dim, prompt=prompt,
            prompt_name=prompt_name, errors=errors, progress=progress,
        )  # fmt: skip

    def similarity(self, a: Any, b: Any) -> NDArray[np.float32]:
        """How alike embeddings, or texts, are: float32 [n, m], by the folder's similarity_fn_name (cosine).

        a, b: arrays [n, d] and [m, d], or texts.  Distances (euclidean, manhattan) are negative.
        """
        from lepton_edge.tasks.embedding import compare

        return compare(self, a, b)

    def classify(
        self,
        texts: Any,
        top_k: int | None = 1,
        *,
        labels: Sequence[str] | None = None,
        hypothesis: str | None = None,
        several: bool = False,
        truncate: bool = False,
        batch_size: int = 32,
        errors: str = "raise",
        progress: Progress | None = None,
    ) -> Any:
        """The likeliest labels of texts: [{'label': …, 'score': …}, …] of one text, the likeliest first.

        Scores are those of transformers' pipeline: a softmax; a sigmoid of each where labels do not exclude each other
        (problem_type multi_label_classification) or there is but one; the number itself for a regression.

        Args:
            texts: texts; or pairs of them, two in a tuple or {'text': …, 'text_pair': …}.
            top_k: so many labels; None: all.
            labels: any labels, for a model of natural language inference (zero-shot); hypothesis: the sentence about
                the text that is tested, with {} for the label (default 'This example is {}.'); several: whether labels
                do not exclude each other.  Here a text that is too long is cut.
            truncate: cut a text that is longer than the context; of a pair, the longer one.
        Raises:
            RequestError: the model is no classifier, or an argument or a text is wrong.
            ContextLengthError: a text is longer than the context, and truncate is False.
        """
        from lepton_edge.tasks import classification

        if labels is None:
            return classification.classify(self, texts, top_k, truncate, batch_size, errors, progress)
        return classification.zero_shot(
            self, texts, labels, hypothesis, several, top_k, batch_size, errors, progress
        )  # fmt: skip

    def rank(
        self,
        query: str,
        documents: Iterable[str],
        top_k: int | None = None,
        *,
        batch_size: int = 32,
        errors: str = "raise",
        progress: Progress | None = None,
    ) -> list[dict[str, Any]]:
        """Documents in the order of their scores for a query, the best first: [{'corpus_id', 'score', 'text'}, …].

        As `CrossEncoder.rank` of sentence-transformers, for a classifier with one output: the score is the sigmoid of
        it, or what config.json's sentence_transformers.activation_fn says.  Of a query and a document that are too
        long together, the longer one is cut.  top_k: so many; None: all.  errors: with 'return', documents that cannot
        be scored stand at the end, with 'error'.
        """
        from lepton_edge.tasks.ranking import rank

        return rank(self, query, documents, top_k, batch_size, errors, progress)

    def entities(
        self,
        texts: Any,
        strategy: str = "simple",
        *,
        stride: int | None = None,
        batch_size: int = 32,
        errors: str = "raise",
        progress: Progress | None = None,
    ) -> Any:
        """Names in texts: [{'entity_group', 'score', 'word', 'start', 'end'}, …]; text[start:end] is the name.

        strategy, as transformers' aggregation_strategy: 'simple' joins neighbouring tokens of one label, where a `B-`
        begins a new one; 'first', 'average' and 'max' give each word one label first: of its first token, of the mean
        of its tokens, of the surest one; 'none': tokens as they are, with 'entity' and 'index'.
        stride: read a text that is longer than the context in pieces that share so many tokens; of entities that
        overlap, the longer one stays.  None: ContextLengthError.
        """
        from lepton_edge.tasks.entity import entities

        return entities(self, texts, strategy, stride, batch_size, errors, progress)

    @cached_property
    def answers(self) -> Answers:
        """What lepton.json of the folder says of `inference`. Raises ConfigError, or RequestError for no classifier."""
        from lepton_edge.tasks.answer_fields import read_answers
        from lepton_edge.tasks.texts import need_head

        return read_answers(self.folder, need_head(self, "classes", "inference").labels)

    def inference(
        self, rows: Any, *, batch_size: int = 32, errors: str = "raise", progress: Progress | None = None
    ) -> Any:
        """Answers of the shape that the folder's lepton.json describes; without one, with `label` and `score`.

        rows: a dict with a field 'text' (or as lepton.json names it) gives a dict; a list of dicts a list; any other
        iterable a generator, which answers each row as it comes.  Other fields of a row are passed through.
        errors: 'return' gives a bad row {…its fields, 'error': message}, and loses no other.
        Raises:
            ConfigError: lepton.json is wrong.
            RequestError: the model is no classifier, or a row is wrong.
        """
        from lepton_edge.tasks.inference import inference

        return inference(self, rows, batch_size, errors, progress)

    def answer(
        self,
        question: Any,
        context: str | None = None,
        top_k: int = 1,
        *,
        stride: int | None = None,
        max_length: int | None = None,
        max_answer: int = 15,
        empty: bool = False,
        batch_size: int = 32,
        errors: str = "raise",
        progress: Progress | None = None,
    ) -> Any:
        """The words of a context that answer a question: {'score', 'start', 'end', 'answer'}, or top_k of them.

        As the question-answering pipeline of transformers 4.57.  score: the probability that the answer begins where it
        does, times that it ends there; of words that stand in several places, the sum.  In a piece that is 1 at most,
        but a long context has several pieces, so that words which come again and again may score above 1.

        Args:
            question, context: two texts; or only dicts with 'question' and 'context': one, a list, or an iterator.
            stride, max_length: a long context is read in pieces of max_length tokens (384, at most the model's own),
                question included, that share `stride` tokens (128, at most half).
            max_answer: tokens of an answer, at most.
            empty: whether there may be no answer: '' then, with the score of that.
        """
        from lepton_edge.tasks.question import answer

        rows = question if context is None else {"question": question, "context": context}
        return answer(
            self, rows, top_k=top_k, stride=stride, max_length=max_length, max_answer=max_answer, empty=empty,
            batch_size=batch_size, errors=errors, progress=progress,
        )  # fmt: skip

    def fill(
        self,
        texts: Any,
        top_k: int = 5,
        *,
        targets: Sequence[str] | None = None,
        batch_size: int = 32,
        errors: str = "raise",
        progress: Progress | None = None,
    ) -> Any:
        """The likeliest tokens in a masked place: [{'score', 'token', 'token_str', 'sequence'}, …]; for a text with
        several places, one such list for each.  As transformers' fill-mask pipeline.

        targets: only these tokens, as the vocabulary spells them.
        """
        from lepton_edge.tasks.masked import fill

        return fill(self, texts, top_k, targets, batch_size, errors, progress)

    def score(self, texts: Any, *, errors: str = "raise", progress: Progress | None = None) -> Any:
        """How likely a decoder thinks a text is: 'log_likelihood', 'perplexity', 'tokens', 'log_probabilities'.

        log_probabilities has one number for each token after those before it, None for the first (BOS, where the
        tokenizer begins texts with it).  perplexity is exp of their negative mean.
        """
        from lepton_edge.tasks.scoring import score

        return score(self, texts, errors, progress)

    def perplexity(
        self, text: str, context: int | None = None, stride: int | None = None, *, progress: Progress | None = None
    ) -> dict[str, Any]:
        """Perplexity of a text of any length, in windows of `context` tokens that begin `stride` tokens apart.

        As transformers' documentation defines it ("Perplexity of fixed-length models"): of each window, the tokens that
        no window before had; their mean counts as often as there are, less one.  None: the model's context, and windows
        that do not overlap.
        """
        from lepton_edge.tasks.scoring import perplexity

        return perplexity(self, text, context, stride, progress)

    def translate(
        self,
        texts: Any,
        source: str | None = None,
        target: str | None = None,
        *,
        batch_size: int = 32,
        errors: str = "raise",
        progress: Progress | None = None,
        **options: Any,
    ) -> Any:
        """The translation of each text.

        source, target: languages as the tokenizer names them (`en_XX`, `eng_Latn`, `en` or `__en__`); T5 takes their
        names (`English`).  None: as the model's folder says, which is all there is to models of one pair.  options:
        beams, max_tokens, length_penalty, no_repeat_ngram_size, temperature, …: see `tasks.translate.writing`.

        Raises:
            RequestError: the model is no encoder-decoder, lacks the language, or an argument or a text is wrong.
            ContextLengthError: a text is longer than the context.
            Cancelled: `cancel` was called.
        """
        from lepton_edge.tasks.translate import translation

        return translation(self, source, target, **options).answers(texts, batch_size, errors, progress)

    def stream_translate(
        self, text: Any, source: str | None = None, target: str | None = None, **options: Any
    ) -> Generator[Piece, None, None]:
        """As `translate` of one text, but one `Piece` for each token, as soon as it is there: see `Model.stream`.

        Of several beams only the end shows which one it will be, a RequestError: where the folder asks for some
        (`Model.beams`), say beams=1.
        """
        from lepton_edge.tasks.translate import translation

        return translation(self, source, target, **options).stream(text)

    def summarize(
        self, texts: Any, *, batch_size: int = 32, errors: str = "raise", progress: Progress | None = None,
        **options: Any,
    ) -> Any:  # fmt: skip
        """The summary of each text; T5 is told to with its folder's prefix.  options and errors: as of `translate`."""
        from lepton_edge.tasks.translate import summary

        return summary(self, **options).answers(texts, batch_size, errors, progress)

    def stream_summarize(self, text: Any, **options: Any) -> Generator[Piece, None, None]:
        """As `summarize` of one text, in pieces, as of `stream_translate`."""
        from lepton_edge.tasks.translate import summary

        return summary(self, **options).stream(text)

    @property
    def beams(self) -> int:
        """Texts that an encoder-decoder follows at a time, unless told otherwise, as its folder says.

        1: one, of the likeliest token each time or of drawn ones.  Raises RequestError for another model.
        """
        from lepton_edge.tasks.translate import folder_beams

        return folder_beams(self)

    def transcribe(self, texts: Any, *, max_tokens: int | None = None, errors: str = "raise") -> list[Any]:
        """What a recurrent encoder-decoder writes for each text, such as the sounds of a word: names of its tokens."""
        from lepton_edge.tasks.transcribe import transcribe

        return transcribe(self, texts, max_tokens=max_tokens, errors=errors)

    def stream_transcribe(self, text: str, *, max_tokens: int | None = None) -> Generator[Piece, None, None]:
        """As `transcribe` of one text, but one `Piece` for each name, as soon as it is there; its text is the name."""
        from lepton_edge.tasks.transcribe import stream_transcribe

        return stream_transcribe(self, text, max_tokens)

    def trace(self, text: Any, target: Any = None, *, hidden_states: bool = False, attentions: bool = False) -> Trace:
        """What a model makes of a text on the way: `hidden_states` and `attentions`, as transformers gives them.

        Args:
            text: a text, two of them in a tuple where the model takes pairs, or token ids.
            target: of an encoder-decoder, what its decoder reads: a text, or token ids, the first one included.  Then
                the answer is the decoder's, with `cross_attentions` and `encoder`; None: the encoder's.
            hidden_states: float32 [T, H] before each layer, and after the last one and the final norm.
            attentions: float32 [heads, T, T] of each layer that attends; they are computed in NumPy, slowly.
        Raises:
            RequestError: an argument is wrong, or the arrays would take more than 4.3 GB.
            ContextLengthError: the text is longer than the context.
            Cancelled: `cancel` was called.
        """
        from lepton_edge.tasks.tracing import trace

        return trace(self, text, target, hidden_states, attentions)

    def explain(
        self,
        text: str,
        label: str | None = None,
        method: str = "leave-one-out",
        *,
        batch_size: int = 32,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Which words made a classifier give a label: 'text', 'label', 'score', and 'words' with a 'weight' each.

        method: 'leave-one-out': a word's weight is the label's probability, less what it is without the word's tokens;
        'rollout': the share of the word in what the head reads, as attention flows through the layers; it is the
        same for each label.  label: None: the likeliest.  `tasks.explanation.page([…])` makes an HTML page that colours
        the words.
        """
        from lepton_edge.tasks.explanation import explain

        return explain(self, text, label, method, batch_size, progress)
