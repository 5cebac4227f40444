"""Answers of encoder-decoders, token by token: the same text, log-probabilities, stops, errors, slots given back."""

import gc
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden.recipe import _tokenizer
from golden.rnn import CONFIGS, write_folder
from golden.seq2seq import PAIRS
from pair_folders import folder_of

import lepton_edge
from lepton_edge.errors import ModelError, RequestError
from lepton_edge.generate.beams import log_softmax

TEXTS = ["w5 w6 w7", "w9", "w12 w11 w5 w6"]


@pytest.fixture(scope="module")
def bart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[lepton_edge.Model]:
    with lepton_edge.load(folder_of(tmp_path_factory.mktemp("model") / "bart", "bart", max_length=30)) as model:
        yield model


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[lepton_edge.Model]:
    """A recurrent encoder-decoder."""
    path = tmp_path_factory.mktemp("model") / "lstm_pair"
    write_folder("lstm_pair", path)
    labels = {str(i): f"sound {i}" for i in range(23)}
    (path / "config.json").write_text(json.dumps(CONFIGS["lstm_pair"] | {"id2label": labels, "max_length": 20}))
    (path / "tokenizer.json").write_text(json.dumps(_tokenizer(61)))
    with lepton_edge.load(path, threads=1) as model:
        yield model


def joined(pieces: Any) -> str:
    return "".join(piece.text for piece in pieces)


def held(model: lepton_edge.Model) -> list[int]:
    """Slots that are taken, of sources and of texts."""
    engine = model.engine.decoder or model.engine
    with pytest.raises(RequestError, match="open are") as caught:
        engine.length(999)
    return [int(slot) for slot in re.findall(r"\d+", str(caught.value).split("open are", 1)[1])]


@pytest.mark.parametrize("name", [pair.name for pair in PAIRS])
def test_pieces_are_the_answer(name: str, tmp_path: Path) -> None:
    """Of every kind of encoder-decoder: greedily and drawn, of texts and ids, ended by a token or by the limit."""
    reasons = set()
    with lepton_edge.load(folder_of(tmp_path / "m", name, max_length=30)) as model:
        for text in TEXTS:
            for options in (dict(), dict(max_tokens=3), dict(temperature=1.5, seed=3)):
                pieces = list(model.stream(text, **options))
                expected = model.generate(text, **options)
                assert joined(pieces) == expected == joined(model.stream(model.tokenizer.encode(text), **options))
                assert expected == joined(model.stream_summarize(text, **options)) == model.summarize(text, **options)
                assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
                assert len(pieces) <= options.get("max_tokens", 29)
                assert (pieces[-1].token == 2) == (pieces[-1].finish_reason == "stop")
                reasons.add(pieces[-1].finish_reason)
        assert held(model) == []
    assert "length" in reasons


def test_a_text_that_ends_by_itself(tmp_path: Path) -> None:
    """The end token has a piece, without text."""
    with lepton_edge.load(folder_of(tmp_path / "m", "bart", forced_eos_token_id=2)) as model:
        *pieces, last = model.stream(TEXTS[0], max_tokens=4)
        assert (last.text, last.token, last.finish_reason) == ("", 2, "stop") and len(pieces) == 3
        assert joined(pieces) == model.generate(TEXTS[0], max_tokens=4) != ""


def test_white_space_at_the_ends(tmp_path: Path) -> None:
    """Of a tokenizer whose words begin with a space, and one that is a space."""
    path = folder_of(tmp_path / "m", "bart", no_repeat_ngram_size=1)
    settings = json.loads((path / "tokenizer.json").read_text())
    settings["decoder"] = {"type": "Metaspace", "replacement": "w", "prepend_scheme": "never", "split": False}
    with lepton_edge.load(path) as model:
        last = model.generate(TEXTS[0]).split()[-1]
    words = settings["model"]["vocab"]
    words["w"] = words.pop(last)
    (path / "tokenizer.json").write_text(json.dumps(settings))
    with lepton_edge.load(path) as model:
        tokens = [piece.token for piece in model.stream(TEXTS[0])]
        assert re.fullmatch(r" .*\S +", model.tokenizer.decode(tokens))
        assert joined(model.stream(TEXTS[0])) == model.generate(TEXTS[0]) == model.tokenizer.decode(tokens).strip()


def test_log_probabilities_are_the_model_s_before_the_rules(bart: lepton_edge.Model) -> None:
    options = dict(max_tokens=5, no_repeat_ngram_size=1, beams=1)
    pieces = list(bart.stream_translate(TEXTS[0], **options))
    engine, ids = bart.engine, [bart.spec.start, *(piece.token for piece in pieces)]
    memory = engine.remember([bart.tokenizer.encode(TEXTS[0])])[0]
    slot = engine.open_with(memory)
    logs = log_softmax(engine.forward(ids[:-1], [slot] * 5, range(5), range(5)))
    for used in (slot, memory):
        engine.close_slot(used)
    np.testing.assert_allclose([piece.logprob for piece in pieces], logs[range(5), ids[1:]], rtol=1e-4)
    assert (logs.argmax(axis=1) != ids[1:]).any(), "the rules changed something"
    assert joined(pieces) == bart.translate(TEXTS[0], **options)


def test_languages_and_prefixes(tmp_path: Path) -> None:
    with lepton_edge.load(folder_of(tmp_path / "a", "m2m100", ("en_XX", "de_DE"))) as model:
        asked = dict(source="de_DE", target="en_XX")
        found = joined(model.stream_translate(TEXTS[0], **asked))
        assert found == model.translate(TEXTS[0], **asked) and found.startswith("en_XX")
        with pytest.raises(RequestError, match="target is 'xx'"):
            model.stream_translate(TEXTS[0], target="xx")
    with lepton_edge.load(folder_of(tmp_path / "b", "t5", ("translate", "to"))) as model:
        asked = dict(source="w7", target="w8")
        found = joined(model.stream_translate(TEXTS[0], **asked))
        assert found == model.translate(TEXTS[0], **asked) != model.translate(TEXTS[0])


def test_stop_strings(bart: lepton_edge.Model) -> None:
    """In a stream and in whole texts, drawn, greedy and of beams; a stream that is stopped takes no step more."""
    whole = bart.generate(TEXTS[0])
    stop = whole.split()[2]
    expected = whole[: whole.index(stop)]
    pieces = list(bart.stream(TEXTS[0], stop=stop))
    assert joined(pieces) == expected == bart.generate(TEXTS[0], stop=[stop, "nowhere"])
    assert pieces[-1].finish_reason == "stop" and len(pieces) < len(list(bart.stream(TEXTS[0])))
    beams = bart.translate(TEXTS, beams=3)
    stop = beams[1].split()[1]
    assert bart.translate(TEXTS, beams=3, stop=stop) == [text.split(stop)[0] for text in beams] != beams
    assert held(bart) == []


def test_beams_cannot_be_streamed(tmp_path: Path, bart: lepton_edge.Model) -> None:
    with lepton_edge.load(folder_of(tmp_path / "m", "marian", num_beams=3)) as model:
        assert model.beams == 3 and bart.beams == 1
        for call in (model.stream, model.stream_translate, model.stream_summarize):
            with pytest.raises(RequestError, match=r"3 beams .*beams=1"):
                call(TEXTS[0])
        assert joined(model.stream_translate(TEXTS[0], beams=1)) == model.translate(TEXTS[0], beams=1)
        assert joined(model.stream(TEXTS[0], temperature=1.0, seed=1)) == model.generate(
            TEXTS[0], temperature=1.0, seed=1)  # fmt: skip
    with pytest.raises(RequestError, match="2 beams"):
        bart.stream_translate(TEXTS[0], beams=2)
    with lepton_edge.load(folder_of(tmp_path / "d", "marian", num_beams=3, do_sample=True)) as model:
        assert model.beams == 1 and joined(model.stream(TEXTS[0], seed=1)) == model.generate(TEXTS[0], seed=1)


def test_what_is_wrong_is_said_at_once(bart: lepton_edge.Model, sounds: lepton_edge.Model) -> None:
    wrong = [((3,), "the text is 3"), (("w5 \ud800",), "surrogate"), (("w5 " * 400,), "40[01] tokens"),
             ((["a", "b"],), "expected a string"), (([],), "no tokens"), (([99],), "99")]  # fmt: skip
    for call in (bart.stream, bart.stream_translate, bart.stream_summarize):
        for arguments, message in wrong:
            with pytest.raises(RequestError, match=message):
                call(*arguments)
        with pytest.raises(RequestError, match="max_tokens"):
            call(TEXTS[0], max_tokens=0)
    for call in (bart.generate, bart.stream):
        with pytest.raises(RequestError, match="no adapter 'poet'"):
            call(TEXTS[0], adapter="poet")
    for text, message in ((3, "the text is 3"), (["w5"], "expected a string"), ("w3 " * 21, "21 tokens")):
        with pytest.raises(RequestError, match=message):
            sounds.stream_transcribe(text)
    with pytest.raises(RequestError, match="max_tokens"):
        sounds.stream_transcribe(TEXTS[0], max_tokens=0)
    with pytest.raises(RequestError, match="use transcribe or stream_transcribe"):
        sounds.stream(TEXTS[0])
    with pytest.raises(RequestError, match="expected a recurrent encoder-decoder"):
        bart.stream_transcribe(TEXTS[0])
    with lepton_edge.load() as stories:
        for name in ("stream_translate", "stream_summarize"):
            with pytest.raises(RequestError, match="has no encoder and decoder"):
                getattr(stories, name)("a")
        with pytest.raises(RequestError, match="has no encoder and decoder"):
            stories.beams  # noqa: B018
    assert held(bart) == held(sounds) == []


def test_names_come_one_by_one(sounds: lepton_edge.Model) -> None:
    for text in TEXTS:
        pieces, expected = list(sounds.stream_transcribe(text)), sounds.transcribe(text)
        ended = pieces[-1].finish_reason == "stop"
        assert [piece.text for piece in pieces] == expected + [""] * ended
        assert all(piece.logprob < 0 for piece in pieces)
        short = list(sounds.stream_transcribe(text, max_tokens=2))
        assert [piece.text for piece in short] == expected[:2] and short[-1].finish_reason == "length"
    target = sounds.spec.target
    state = sounds.engine.last_states([sounds.tokenizer.encode(TEXTS[0])])[0]
    decoder = sounds.engine.decoder
    slot = decoder.open(state)
    logs = log_softmax(decoder.forward([target.start], [slot], [1], [0]))
    decoder.close_slot(slot)
    first = next(sounds.stream_transcribe(TEXTS[0]))
    assert (first.token, first.logprob) == (int(logs.argmax()), pytest.approx(float(logs.max()), rel=1e-4))


STREAMS = pytest.mark.parametrize("kind", ["bart", "sounds"])


def begun(request: pytest.FixtureRequest, kind: str) -> tuple[lepton_edge.Model, Any]:
    """A model, and a stream of it that has given a piece."""
    model = request.getfixturevalue(kind)
    pieces = model.stream(TEXTS[0]) if kind == "bart" else model.stream_transcribe(TEXTS[0])
    assert held(model) == [] and next(pieces).token is not None and held(model) != []
    return model, pieces


@STREAMS
@pytest.mark.parametrize("how", ["close", "forget"])
def test_a_stream_that_is_not_read_to_its_end(kind: str, how: str, request: pytest.FixtureRequest) -> None:
    model, pieces = begun(request, kind)
    if how == "close":
        pieces.close()
    else:
        del pieces
        gc.collect()
    assert held(model) == []


@STREAMS
def test_cancel(kind: str, request: pytest.FixtureRequest) -> None:
    """It reaches streams that have begun and that have not, and no later one."""
    model, pieces = begun(request, kind)
    waiting = model.stream(TEXTS[1]) if kind == "bart" else model.stream_transcribe(TEXTS[1])
    model.cancel()
    for stream in (pieces, waiting):
        assert [(piece.text, piece.token, piece.finish_reason) for piece in stream] == [("", None, "cancelled")]
    assert held(model) == []
    later = begun(request, kind)[1]
    assert next(later).finish_reason is None
    later.close()


@STREAMS
@pytest.mark.parametrize("error", [KeyboardInterrupt, ModelError])
def test_an_error_within_a_step(
    kind: str, error: type[BaseException], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C, and logits that are no numbers."""
    model, pieces = begun(request, kind)
    engine = model.engine.decoder or model.engine
    forward = engine.forward

    def wrong(*arguments: Any) -> Any:
        if error is KeyboardInterrupt:
            raise error
        return forward(*arguments) * np.nan

    monkeypatch.setattr(engine, "forward", wrong)
    with pytest.raises(error):
        next(pieces)
    assert held(model) == []


@STREAMS
def test_streams_take_turns(kind: str, request: pytest.FixtureRequest) -> None:
    """Two at once, and a whole request between their pieces."""
    model = request.getfixturevalue(kind)
    stream = model.stream if kind == "bart" else model.stream_transcribe
    alone = [[piece.text for piece in stream(text)] for text in TEXTS[:2]]
    found: list[list[str]] = [[], []]
    streams = [stream(text) for text in TEXTS[:2]]
    whole = model.generate if kind == "bart" else model.transcribe
    expected = whole(TEXTS[2])
    for _ in range(max(map(len, alone))):
        for texts, pieces in zip(found, streams, strict=True):
            texts += [piece.text for piece in [next(pieces, None)] if piece is not None]
        assert whole(TEXTS[2]) == expected
    assert found == alone and held(model) == []
