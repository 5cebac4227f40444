"""Recurrent encoder-decoders: what torch.nn writes greedily; slots, limits, cancelling, numbers that are none."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from golden.rnn import LENGTHS, load, sequences, tensors, write_folder

import lepton_edge
from lepton_edge.errors import Cancelled, ContextLengthError, ModelError, RequestError
from lepton_edge.generate.transduce import transduce

GOLDEN = load()
each_name = pytest.mark.parametrize("name", ["gru_pair", "lstm_pair"])


@pytest.fixture
def model(name: str, tmp_path: Path) -> Iterator[lepton_edge.Model]:
    with lepton_edge.load(write_folder(name, tmp_path / name), threads=1) as loaded:
        yield loaded


def expected(name: str, most: int = 1 << 10) -> list[list[int]]:
    return [[token for token in row if token >= 0][:most] for row in GOLDEN[f"{name} greedy"].tolist()]


@each_name
def test_greedy(name: str, model: lepton_edge.Model) -> None:
    """Together and alone; texts end at different steps."""
    assert transduce(model._shared, sequences(name)) == expected(name)
    assert [transduce(model._shared, [ids])[0] for ids in sequences(name)] == expected(name)
    assert transduce(model._shared, sequences(name), most=2) == expected(name, 2)
    assert transduce(model._shared, []) == []


@each_name
def test_more_texts_than_there_are_slots(name: str, model: lepton_edge.Model) -> None:
    assert transduce(model._shared, sequences(name) * 100) == expected(name) * 100
    decoder = model.engine.decoder
    assert decoder is not None
    with pytest.raises(RequestError, match="not open"):
        decoder.length(0)  # all were given back


@each_name
def test_threads_take_turns(name: str, model: lepton_edge.Model) -> None:
    found: dict[int, list[list[int]]] = {}

    def work(i: int) -> None:
        found[i] = transduce(model._shared, sequences(name) * 5)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(4), expected(name) * 5)


@pytest.mark.parametrize("name", ["lstm_pair"])
def test_cancelled_requests_give_their_slots_back(name: str, model: lepton_edge.Model) -> None:
    done = threading.Event()

    def cancel() -> None:
        while not done.is_set():
            model.cancel()

    other = threading.Thread(target=cancel)
    other.start()
    try:
        with pytest.raises(Cancelled):
            for _ in range(1000):
                transduce(model._shared, sequences(name) * 10)
    finally:
        done.set()
        other.join()
    decoder = model.engine.decoder
    assert decoder is not None
    with pytest.raises(RequestError, match="open are \\[\\]"):
        decoder.length(0)
    assert transduce(model._shared, sequences(name)) == expected(name)


@pytest.mark.parametrize("name", ["gru_pair"])
def test_what_cannot_be_written(name: str, model: lepton_edge.Model) -> None:
    with pytest.raises(ContextLengthError, match="8193 tokens"):
        transduce(model._shared, [np.zeros(8193, np.int32)])
    for call in (lambda: model.generate([1, 2]), lambda: model.logits([1, 2])):
        with pytest.raises(RequestError, match="rnn models write no text"):
            call()
    assert [part.shape for part in model.run(sequences(name), hidden=True)] == [(n, 36) for n in LENGTHS]


def test_a_classifier_writes_nothing(tmp_path: Path) -> None:
    with (
        lepton_edge.load(write_folder("gru_last", tmp_path / "model"), threads=1) as model,
        pytest.raises(RequestError, match="expected a recurrent encoder-decoder"),
    ):
        transduce(model._shared, [np.zeros(3, np.int32)])


def test_damaged_weights_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tensors("gru_pair")
    damaged["head.bias"][5] = np.nan
    monkeypatch.setattr("golden.rnn.tensors", lambda name: damaged)
    with (
        lepton_edge.load(write_folder("gru_pair", tmp_path / "model"), threads=1) as model,
        pytest.raises(ModelError, match="NaN"),
    ):
        transduce(model._shared, sequences("gru_pair"))
