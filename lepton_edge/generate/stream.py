"""The loop of a request: token after token, out come pieces of text; and a decoder's: its prompt in chunks before."""

from __future__ import annotations

from collections.abc import Collection, Container, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from lepton_edge.errors import Cancelled
from lepton_edge.generate.params import SamplingParams
from lepton_edge.generate.sampling import Sampler
from lepton_edge.generate.shared import Sequence
from lepton_edge.generate.stopping import StopFinder

if TYPE_CHECKING:
    from lepton_edge.text import Detokenizer, Tokenizer

LOGITS_CHUNK = 64  # tokens whose logits are copied at a time
PREFIX = 64  # tokens of a prompt that may shape the text after it
NOTHING = np.empty(0, np.int32)

FinishReason = Literal["stop", "length", "cancelled"]
Followed = Generator[tuple[int, float], None, None]  # tokens and their log-probabilities; Cancelled after a `cancel`


@dataclass(frozen=True)
class Piece:
    """One step of a stream: a token and the text that is certain with it.

    Attributes:
        text: whole characters; empty while a character or a possible stop string is incomplete.
        token: the token's id; None when a request was cancelled before it had one.
        logprob: the token's log-probability under the model, before temperature and filters; None without a token.
        finish_reason: on the last piece 'stop' (an end token or a stop string), 'length' (max_tokens or the context is
            reached) or 'cancelled'; None before.
    """

    text: str
    token: int | None
    logprob: float | None
    finish_reason: FinishReason | None


def stream(
    sequence: Sequence,
    tokenizer: Tokenizer,
    prompt: NDArray[np.int32],
    params: SamplingParams,
    ends: Collection[int] = (),
    shown: Collection[str] = (),
) -> Generator[Piece, None, None]:
    """Generate after a prompt; one piece for each token, end tokens included.

    Args:
        sequence: a new one; it is closed at the end.
        tokenizer: for the text and the end tokens.
        prompt: int32 [T] ids below the vocabulary's size, at least one, at most the context.
        params: how to choose, when to stop.
        ends: tokens that end the text, besides the tokenizer's own.
        shown: special tokens whose text is not left out.
    """
    # The last token need not be fed, so it has no position in the cache.
    limit = min(params.max_tokens, sequence.shared.engine.context - prompt.size + 1)
    detokenizer = tokenizer.stream(prompt[-PREFIX:], shown)
    return pieces(_follow(sequence, prompt, params), detokenizer, params.stop, tokenizer.eos_ids.union(ends), limit)


def _follow(sequence: Sequence, prompt: NDArray[np.int32], params: SamplingParams) -> Followed:
    """Tokens after a prompt, without end."""
    engine = sequence.shared.engine
    with closing(sequence):
        sequence.open(prompt)
        sampler = Sampler(params, prompt, engine.vocab)
        *parts, tokens = _chunks(prompt[sequence.length :], engine.max_batch)
        for part in parts:
            sequence.feed(part, NOTHING)
        while True:
            token, logprob = sequence.follow(tokens, sampler)
            yield token, logprob
            tokens = np.array([token], np.int32)


def pieces(
    tokens: Followed, detokenizer: Detokenizer, stop: tuple[str, ...], ends: Container[int], limit: int
) -> Generator[Piece, None, None]:
    """One piece for each token, up to a token of `ends`, a stop string, or the `limit`th token, or a `cancel`.

    tokens: is closed at the end.
    """
    text = _Text(detokenizer, StopFinder(stop))
    with closing(tokens):
        try:
            for count, (token, logprob) in enumerate(tokens, 1):
                reason: FinishReason | None = "length" if count == limit else None
                if token in ends:
                    certain, reason = text.end()[0], "stop"
                else:
                    certain, stopped = text.push(token, last=count == limit)
                    reason = "stop" if stopped else reason
                if reason is not None:
                    tokens.close()  # who has the last piece may never ask for another
                yield Piece(certain, token, logprob, reason)
                if reason is not None:
                    return
        except Cancelled:
            yield Piece(text.end()[0], None, None, "cancelled")


def all_logits(sequence: Sequence, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
    """Logits float32 [T, V] after each of tokens int32 [T]; T at most the context.

    Args:
        sequence: a new one; it is closed at the end.
        tokens: ids below the vocabulary's size.
    Raises:
        Cancelled: `cancel` was called.
    """
    engine = sequence.shared.engine
    with closing(sequence):
        sequence.open()
        logits = np.empty((tokens.size, engine.vocab), np.float32)
        for part in _chunks(tokens, min(engine.max_batch, LOGITS_CHUNK)):
            start = sequence.length
            logits[start : start + part.size] = sequence.feed(part, np.arange(part.size, dtype=np.int32))
    return logits


def _chunks(tokens: NDArray[np.int32], size: int) -> list[NDArray[np.int32]]:
    return [tokens[start : start + size] for start in range(0, tokens.size, size)]


class _Text:
    """Tokens to text that can be shown: whole characters, no stop string."""

    def __init__(self, detokenizer: Detokenizer, finder: StopFinder) -> None:
        self._detokenizer = detokenizer
        self._finder = finder

    def push(self, token: int, last: bool) -> tuple[str, bool]:
        """The text to show, and whether a stop string ended it; with `last`, all that was held back as well."""
        text, stopped = self._finder.push(self._detokenizer.push(token))
        if stopped or not last:
            return text, stopped
        rest, stopped = self.end()
        return text + rest, stopped

    def end(self) -> tuple[str, bool]:
        """All that was held back, and whether a stop string ended it."""
        text, stopped = self._finder.push(self._detokenizer.flush())
        return text + self._finder.flush(), stopped
