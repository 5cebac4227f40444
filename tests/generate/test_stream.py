"""The loop, on an engine that checks how it is called."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import small_tokenizers
from fake_engine import FakeEngine

from lepton_edge.errors import Cancelled, ModelError, RequestError
from lepton_edge.generate.params import SamplingParams
from lepton_edge.generate.shared import SharedEngine
from lepton_edge.generate.stream import Piece, all_logits, stream
from lepton_edge.text import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = small_tokenizers.byte_level(tmp_path_factory.mktemp("model"))
    (folder / "config.json").write_text('{"eos_token_id": 1}')
    return Tokenizer.load(folder)


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    """One id for each byte of the text (and one for `the` or `cat`)."""
    return tokenizer.encode(text, special=False)


def engine_that_says(tokenizer: Tokenizer, start: str, text: str, end: bool = True, **options) -> FakeEngine:
    ids = [*ids_of(tokenizer, start), *ids_of(tokenizer, text), *([1] if end else [])]
    assert len(set(ids)) == len(ids), "a chain needs different tokens"
    return FakeEngine.chain(*ids, vocab=tokenizer.vocab_size, **options)


def run(engine: FakeEngine, tokenizer: Tokenizer, prompt: str, **params) -> list[Piece]:
    ids = np.array(ids_of(tokenizer, prompt), np.int32)
    pieces = list(stream(SharedEngine(engine).begin(), tokenizer, ids, SamplingParams(**params)))
    assert engine.slots == {}, "a slot was not freed"
    assert all(piece.finish_reason is None for piece in pieces[:-1])
    return pieces


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def test_greedy_text_ends_at_the_end_token(tokenizer: Tokenizer) -> None:
    engine = engine_that_says(tokenizer, "x", " the日dog")
    pieces = run(engine, tokenizer, "x")
    assert text_of(pieces) == " the日dog"
    assert [piece.token for piece in pieces] == [*ids_of(tokenizer, " the日dog"), 1]
    assert pieces[-1] == Piece("", 1, pieces[-1].logprob, "stop")
    assert [piece.text for piece in pieces][1:4] == ["", "", "日"]
    rows = engine.table[[ids_of(tokenizer, "x")[0], *[piece.token for piece in pieces[:-1]]]].astype(np.float64)
    expected = [row[piece.token] - np.log(np.exp(row).sum()) for row, piece in zip(rows, pieces, strict=True)]
    np.testing.assert_allclose([piece.logprob for piece in pieces], expected, atol=1e-5)


def test_the_prompt_is_fed_in_chunks_and_tokens_one_by_one(tokenizer: Tokenizer) -> None:
    engine = engine_that_says(tokenizer, "q", "abc", max_batch=4)
    run(engine, tokenizer, "0123456789q", max_tokens=3)
    assert engine.batches == [4, 4, 3, 1, 1]


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_max_tokens(tokenizer: Tokenizer, limit: int) -> None:
    pieces = run(engine_that_says(tokenizer, "x", "abcdefgh"), tokenizer, "x", max_tokens=limit)
    assert text_of(pieces) == "abcdefgh"[:limit]
    assert pieces[-1].finish_reason == "length" and len(pieces) == limit


def test_half_a_character_at_the_limit_is_one_replacement(tokenizer: Tokenizer) -> None:
    pieces = run(engine_that_says(tokenizer, "x", "日"), tokenizer, "x", max_tokens=2)
    assert [piece.text for piece in pieces] == ["", "\N{REPLACEMENT CHARACTER}"]


@pytest.mark.parametrize("prompt", ["x", "123x", "1234567x"])
def test_the_context_ends_the_text(tokenizer: Tokenizer, prompt: str) -> None:
    """The last token needs no place in the cache, so a full prompt still gives one."""
    engine = engine_that_says(tokenizer, "x", "abcdefghijkl", context=8)
    pieces = run(engine, tokenizer, prompt)
    assert len(pieces) == 8 - len(prompt) + 1
    assert pieces[-1].finish_reason == "length"


@pytest.mark.parametrize(
    ("stop", "text", "count"),
    [
        ("d", "abc", 4),
        ("cd", "ab", 4),
        (["zz", "bcd", "e"], "a", 4),
        ("the", "abcdefg", 8),
        ("日", "abcdefgthe", 11),
        ("gth", "abcdef", 8),
        ("zzz", "abcdefgthe日", 12),
    ],
)
def test_stop_strings(tokenizer: Tokenizer, stop: str | list[str], text: str, count: int) -> None:
    pieces = run(engine_that_says(tokenizer, "x", "abcdefgthe日"), tokenizer, "x", stop=stop)
    assert text_of(pieces) == text
    assert pieces[-1].finish_reason == "stop" and len(pieces) == count


def test_a_stop_string_that_may_still_come_is_held_and_then_given(tokenizer: Tokenizer) -> None:
    pieces = run(engine_that_says(tokenizer, "x", "abcd"), tokenizer, "x", stop="bcx")
    assert [piece.text for piece in pieces] == ["a", "", "", "bcd", ""]
    pieces = run(engine_that_says(tokenizer, "x", "abcd"), tokenizer, "x", stop="bcx", max_tokens=3)
    assert [(piece.text, piece.finish_reason) for piece in pieces] == [("a", None), ("", None), ("bc", "length")]
    pieces = run(engine_that_says(tokenizer, "x", "abc"), tokenizer, "x", stop="bcx")
    assert [piece.text for piece in pieces] == ["a", "", "", "bc"]


def test_a_stop_string_in_text_that_is_held_to_the_end(tmp_path: Path) -> None:
    """A newline is a byte token in Llama 2's kind, and comes out only with what follows it."""
    tokenizer = Tokenizer.load(small_tokenizers.byte_fallback(tmp_path))
    the, cat, newline = (tokenizer.encode(word, special=False)[-1] for word in ("the", "cat", "\n"))
    assert tokenizer.token(newline) == "<0x0A>"
    for limit, tokens in ((2, 2), (5, 3)):
        engine = FakeEngine.chain(the, cat, newline, vocab=tokenizer.vocab_size)
        pieces = list(
            stream(SharedEngine(engine).begin(), tokenizer, np.array([the], np.int32), SamplingParams(limit, stop="\n"))
        )
        assert "\n" not in text_of(pieces)
        assert pieces[-1].finish_reason == "stop" and len(pieces) == tokens


def test_the_text_goes_on_from_the_prompt(tmp_path: Path) -> None:
    """Llama 2's kind drops the first space of a text; the first space of a continuation must stay."""
    tokenizer = Tokenizer.load(small_tokenizers.byte_fallback(tmp_path))
    prompt = tokenizer.encode("the")
    cat = tokenizer.encode("cat", special=False)
    assert tokenizer.decode(cat) == "cat"
    engine = FakeEngine.chain(prompt[-1], *cat, vocab=tokenizer.vocab_size)
    pieces = list(
        stream(SharedEngine(engine).begin(), tokenizer, np.array(prompt, np.int32), SamplingParams(max_tokens=len(cat)))
    )
    assert text_of(pieces) == " cat"


def test_the_same_seed_gives_the_same_text(tokenizer: Tokenizer) -> None:
    table = np.random.default_rng(1).standard_normal((tokenizer.vocab_size,) * 2)

    def once(seed: int) -> list[int | None]:
        pieces = run(FakeEngine(table), tokenizer, "ab", temperature=1.0, seed=seed, max_tokens=20)
        return [piece.token for piece in pieces]

    assert once(3) == once(3) != once(4)


def test_ids_without_a_token_give_no_text(tokenizer: Tokenizer) -> None:
    """A model may have more embeddings than its tokenizer has tokens."""
    size = tokenizer.vocab_size
    wide = Tokenizer.load(tokenizer._path.parent, model_vocab=size + 8)
    start = ids_of(wide, "x")[0]
    engine = FakeEngine.chain(start, size + 7, *ids_of(wide, "ab"), 1, vocab=size + 8)
    assert text_of(run(engine, wide, "x")) == "ab"


def test_nan_logits_raise_and_free_the_slot(tokenizer: Tokenizer) -> None:
    engine = engine_that_says(tokenizer, "x", "abcd")
    engine.table[ids_of(tokenizer, "b")[0], 5] = np.nan
    shared = SharedEngine(engine)
    pieces = stream(shared.begin(), tokenizer, np.array(ids_of(tokenizer, "x"), np.int32), SamplingParams())
    assert [next(pieces).text, next(pieces).text] == ["a", "b"]
    with pytest.raises(ModelError):
        next(pieces)
    assert engine.slots == {}


def test_all_logits(tokenizer: Tokenizer) -> None:
    engine = engine_that_says(tokenizer, "x", "abcd", max_batch=4)
    tokens = np.array([5, 6, 7, 8, 9, 10], np.int32)
    logits = all_logits(SharedEngine(engine).begin(), tokens)
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, engine.table[tokens])
    assert engine.batches == [4, 2] and engine.slots == {}


# Cancelling, interrupting, sharing


@pytest.fixture
def engine(tokenizer: Tokenizer) -> FakeEngine:
    return engine_that_says(tokenizer, "x", "abcdefghij", end=False, context=1000)


def begin(
    engine: FakeEngine, tokenizer: Tokenizer, prompt: str = "x", **params
) -> tuple[SharedEngine, Iterator[Piece]]:
    shared = SharedEngine(engine)
    return shared, stream(
        shared.begin(), tokenizer, np.array(ids_of(tokenizer, prompt), np.int32), SamplingParams(**params)
    )


def cancel_soon(shared: SharedEngine, engine: FakeEngine, times: list[float]) -> threading.Thread:
    """Cancels from another thread once a step is blocked; notes when."""

    def work() -> None:
        assert engine.waiting.wait(10)
        times.append(time.perf_counter())
        shared.cancel()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.parametrize(("blocked", "text"), [(1, ""), (2, ""), (4, "a"), (7, "abcd")])
def test_cancel_inside_a_step(engine: FakeEngine, tokenizer: Tokenizer, blocked: int, text: str) -> None:
    """During the prompt (its first three chunks) and after it; the model can be used again at once.

    The best of three, as the machine may be busy with something else.
    """
    took = []
    for _ in range(3):
        engine.blocked = len(engine.batches) + blocked
        shared, pieces = begin(engine, tokenizer, "0123456789x")
        times: list[float] = []
        thread = cancel_soon(shared, engine, times)
        got = list(pieces)
        took.append(time.perf_counter() - times[0])
        thread.join()
        assert text_of(got) == text
        assert got[-1] == Piece("", None, None, "cancelled")
        assert engine.slots == {}
        engine.blocked = None
        engine.waiting.clear()
        assert text_of(run(engine, tokenizer, "x", max_tokens=3)) == "abc"
    assert min(took) < 0.05


def test_cancel_between_steps_gives_the_held_text(engine: FakeEngine, tokenizer: Tokenizer) -> None:
    shared, pieces = begin(engine, tokenizer, stop="abz")
    assert [next(pieces).text for _ in range(2)] == ["", ""]
    shared.cancel()
    assert list(pieces) == [Piece("ab", None, None, "cancelled")]
    assert engine.slots == {}


def test_cancel_reaches_requests_made_before_it_only(engine: FakeEngine, tokenizer: Tokenizer) -> None:
    """One that has not begun to compute is a request as well; the next one is not affected."""
    shared, pieces = begin(engine, tokenizer, max_tokens=3)
    shared.cancel()
    assert list(pieces) == [Piece("", None, None, "cancelled")]
    assert engine.batches == [] and engine.slots == {}
    ids = np.array(ids_of(tokenizer, "x"), np.int32)
    assert text_of(list(stream(shared.begin(), tokenizer, ids, SamplingParams(max_tokens=3)))) == "abc"
    shared.cancel()
    assert all_logits(shared.begin(), ids).shape == (1, engine.vocab)


def test_logits_are_cancelled_by_an_exception(engine: FakeEngine, tokenizer: Tokenizer) -> None:
    engine.blocked = 2
    shared = SharedEngine(engine)
    thread = cancel_soon(shared, engine, [])
    with pytest.raises(Cancelled):
        all_logits(shared.begin(), np.arange(20, dtype=np.int32))
    thread.join()
    assert engine.slots == {}


def test_a_cancel_that_comes_just_before_the_step_is_not_lost(engine: FakeEngine, tokenizer: Tokenizer) -> None:
    """The engine ignores a cancel while nothing runs; a step that was about to begin must still stop."""
    shared, pieces = begin(engine, tokenizer)
    about_to_step = threading.Event()
    forward = engine.forward

    def late(*arguments: np.ndarray) -> np.ndarray:
        about_to_step.set()
        time.sleep(0.005)
        return forward(*arguments)

    engine.forward = late  # type: ignore[method-assign]
    engine.blocked = 1
    canceller = threading.Thread(target=lambda: (about_to_step.wait(), shared.cancel()))
    canceller.start()
    assert [piece.finish_reason for piece in pieces] == ["cancelled"]
    canceller.join()


def test_cancel_does_not_reach_a_request_that_begins_while_it_waits(engine: FakeEngine, tokenizer: Tokenizer) -> None:
    """`cancel` makes sure that the step has stopped; meanwhile another request may have taken its turn."""
    shared, pieces = begin(engine, tokenizer)
    engine.blocked = 1
    after: list[Piece] = []

    def work() -> None:
        list(pieces)
        engine.blocked, engine.on_forward = None, lambda: time.sleep(0.01)
        ids = np.array(ids_of(tokenizer, "x"), np.int32)
        after.extend(stream(shared.begin(), tokenizer, ids, SamplingParams(max_tokens=3)))

    thread = threading.Thread(target=work)
    thread.start()
    assert engine.waiting.wait(10)
    shared.cancel()
    thread.join()
    assert text_of(after) == "abc"


def test_cancel_from_inside_a_step_of_the_same_thread(engine: FakeEngine, tokenizer: Tokenizer) -> None:
    """As a signal handler does."""
    shared, pieces = begin(engine, tokenizer)
    engine.on_forward = lambda: shared.cancel() if len(engine.batches) == 3 else None
    assert [piece.text for piece in pieces] == ["a", "b", ""]
    assert engine.slots == {}


def test_other_calls_from_inside_a_step_are_refused(engine: FakeEngine, tokenizer: Tokenizer) -> None:
    shared, pieces = begin(engine, tokenizer)
    tokens = np.array([1], np.int32)
    for call in (lambda: all_logits(shared.begin(), tokens), shared.close):
        engine.on_forward = call
        with pytest.raises(RequestError, match="from inside one of its own steps"):
            next(pieces)
        engine.on_forward = lambda: None
        assert engine.slots == {}
        pieces = stream(shared.begin(), tokenizer, tokens, SamplingParams())


def test_keyboard_interrupt_frees_the_slot(engine: FakeEngine, tokenizer: Tokenizer) -> None:
    shared, pieces = begin(engine, tokenizer, "0123456789x")
    for moment in (1, 3, 5):
        engine.batches.clear()

        def interrupt(moment: int = moment) -> None:
            if len(engine.batches) == moment:
                raise KeyboardInterrupt

        engine.on_forward = interrupt
        with pytest.raises(KeyboardInterrupt):
            list(
                stream(
                    shared.begin(), tokenizer, np.array(ids_of(tokenizer, "0123456789x"), np.int32), SamplingParams()
                )
            )
        assert engine.slots == {}
    engine.on_forward = lambda: None
    engine.batches.clear()
    assert text_of([next(pieces) for _ in range(3)]) == "abc"


def test_a_stream_that_is_left_is_freed(engine: FakeEngine, tokenizer: Tokenizer) -> None:
    _, pieces = begin(engine, tokenizer)
    next(pieces)
    assert len(engine.slots) == 1
    del pieces
    assert engine.slots == {}
    _, pieces = begin(engine, tokenizer)
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert engine.slots == {}


def test_a_stream_that_is_collected_inside_a_step_is_freed_after_it(engine: FakeEngine, tokenizer: Tokenizer) -> None:
    shared, pieces = begin(engine, tokenizer)
    left = [stream(shared.begin(), tokenizer, np.array(ids_of(tokenizer, "x"), np.int32), SamplingParams())]
    next(left[0])
    during: list[int] = []

    def collect() -> None:
        left.clear()
        during.append(len(engine.slots))

    engine.on_forward = collect
    next(pieces)
    assert during == [2]
    assert len(engine.slots) == 1


def test_streams_of_one_thread_do_not_block_each_other(engine: FakeEngine, tokenizer: Tokenizer) -> None:
    shared = SharedEngine(engine)
    prompts = [np.array(ids_of(tokenizer, prompt), np.int32) for prompt in "xad"]
    streams = [stream(shared.begin(), tokenizer, prompt, SamplingParams(max_tokens=4)) for prompt in prompts]
    rounds = list(zip(*streams, strict=True))
    assert ["".join(piece.text for piece in column) for column in zip(*rounds, strict=True)] == ["abcd", "bcde", "efgh"]


def test_threads_take_turns(engine: FakeEngine, tokenizer: Tokenizer) -> None:
    """The engine itself fails when two calls overlap."""
    shared = SharedEngine(engine)
    engine.on_forward = lambda: time.sleep(0.0002)
    results: dict[str, str] = {}

    def work(prompt: str) -> None:
        ids = np.array(ids_of(tokenizer, prompt), np.int32)
        results[prompt] = text_of(list(stream(shared.begin(), tokenizer, ids, SamplingParams(max_tokens=30))))

    threads = [threading.Thread(target=work, args=(prompt,)) for prompt in "xabcdef"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    circle = "xabcdefghij"
    assert results == {
        prompt: "".join(circle[(circle.index(prompt) + 1 + i) % 11] for i in range(30)) for prompt in "xabcdef"
    }
    assert engine.slots == {}


def test_close_stops_what_runs(engine: FakeEngine, tokenizer: Tokenizer) -> None:
    engine.blocked = 3
    shared, pieces = begin(engine, tokenizer)
    got: list[Piece] = []
    thread = threading.Thread(target=lambda: got.extend(pieces))
    thread.start()
    assert engine.waiting.wait(10)
    shared.close()
    thread.join()
    assert got[-1].finish_reason == "cancelled"
    assert engine.closed
    shared.close()
    with pytest.raises(RequestError, match="closed"):
        all_logits(shared.begin(), np.array([1], np.int32))


def test_a_paused_stream_of_a_closed_engine(engine: FakeEngine, tokenizer: Tokenizer) -> None:
    shared, pieces = begin(engine, tokenizer)
    next(pieces)
    shared.close()
    with pytest.raises(RequestError, match="closed"):
        next(pieces)
