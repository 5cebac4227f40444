"""What the method `trace` takes and refuses; tests/models/test_traces.py holds its numbers against transformers."""

from typing import Any

import numpy as np
import pytest
from pair_folders import folder_of

import lepton_edge
from lepton_edge.errors import ContextLengthError, RequestError


def test_a_text_is_its_ids(load: Any) -> None:
    model = load("classes")
    ids = model.tokenizer.encode("the cat sat")
    found, same = model.trace("the cat sat", hidden_states=True, attentions=True), model.trace(ids, hidden_states=True)
    assert found.ids.tolist() == ids and not same.attentions
    np.testing.assert_array_equal(found.hidden_states, same.hidden_states)
    np.testing.assert_array_equal(found.hidden_states[-1], model.run([ids], hidden=True)[0])
    heads, layers = model.config["num_attention_heads"], model.config["num_hidden_layers"]
    assert [shares.shape for shares in found.attentions] == [(heads, len(ids), len(ids))] * layers


def test_pairs_have_segments(load: Any) -> None:
    model = load("nli")
    first, second = "the cat", "a dog sat"
    found = model.trace((first, second), hidden_states=True)
    encoded = model.tokenizer.encode_pair(first, second)
    types = [encoded.types] if model.token_types else None
    np.testing.assert_array_equal(found.hidden_states[-1], model.run([encoded.ids], types, hidden=True)[0])
    same = model.trace({"text": first, "text_pair": second}, hidden_states=True)
    np.testing.assert_array_equal(found.hidden_states, same.hidden_states)


def test_a_decoder(load: Any) -> None:
    with lepton_edge.load() as model:
        found = model.trace("Once upon a time", hidden_states=True, attentions=True)
        assert found.ids.tolist() == model.tokenizer.encode("Once upon a time")
        for shares in found.attentions:
            assert not np.triu(shares, 1).any(), "no token sees a later one"
            np.testing.assert_allclose(shares.sum(axis=2), 1, rtol=1e-5)
        with pytest.raises(RequestError, match="expected a string, or token ids"):
            model.trace(("one", "two"), attentions=True)
        with pytest.raises(RequestError, match="no decoder beside"):
            model.trace("one", "two", attentions=True)


def test_a_target_is_what_the_decoder_reads(tmp_path: Any) -> None:
    """Its text behind the token that it begins with, without the one that ends it."""
    with lepton_edge.load(folder_of(tmp_path / "bart", "bart"), threads=1) as model:
        start, ids = model.spec.start, model.tokenizer.encode("w5 w6")
        assert ids[-1] in model.tokenizer.eos_ids
        found = model.trace("w3 w4 w9", "w5 w6", attentions=True)
        assert found.ids.tolist() == [start, *ids[:-1]]
        same = model.trace("w3 w4 w9", found.ids, attentions=True, hidden_states=True)
        np.testing.assert_array_equal(found.cross_attentions, same.cross_attentions)
        assert found.encoder.ids.tolist() == model.tokenizer.encode("w3 w4 w9")
        source = model.trace("w3 w4 w9", attentions=True)
        np.testing.assert_array_equal(source.attentions, found.encoder.attentions)


@pytest.mark.parametrize(
    ("text", "options", "error", "words"),
    [
        ("a", {}, RequestError, "nothing is asked for"),
        ("a", {"attentions": 1}, RequestError, "nothing is asked for"),
        (3, {"attentions": True}, RequestError, "text"),
        ([], {"attentions": True}, RequestError, "text"),
        ([10**6], {"attentions": True}, RequestError, "text"),
        (["a", 3], {"attentions": True}, RequestError, "is no text"),
        ("\ud800", {"attentions": True}, RequestError, "surrogate"),
        ("cat " * 99, {"hidden_states": True}, ContextLengthError, "shorten it"),
    ],
)
def test_bad_requests(load: Any, text: Any, options: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        load("classes").trace(text, **options)
