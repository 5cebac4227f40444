"""Several models as one: by every method, with labels in any order, and weights that are fitted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import recipe, tasks

import lepton_edge
from lepton_edge import Ensemble
from lepton_edge.errors import RequestError

TURNED = {"id2label": {"0": "glad", "1": "calm", "2": "angry"}}


def shares(model: Any, texts: list[str]) -> np.ndarray:
    """float [n, 3] in the order calm, angry, glad."""
    found = [{row["label"]: row["score"] for row in rows} for rows in model.classify(texts, None)]
    return np.array([[row[label] for label in ("calm", "angry", "glad")] for row in found])


def test_mean_of_probabilities(load: Any) -> None:
    one, two = load("classes"), load("classes", **TURNED)
    found = shares(Ensemble([one, two], [3, 1]), tasks.TEXTS)
    np.testing.assert_allclose(found, 0.75 * shares(one, tasks.TEXTS) + 0.25 * shares(two, tasks.TEXTS), atol=1e-6)
    single = Ensemble([one, two], [3, 1]).classify(tasks.TEXTS[1])
    assert len(single) == 1 and single[0]["score"] == pytest.approx(found[1].max())


def test_mean_of_logits_and_votes(load: Any) -> None:
    one, two = load("classes"), load("classes", **TURNED)
    product = shares(one, tasks.TEXTS) ** 0.5 * shares(two, tasks.TEXTS) ** 0.5
    expected = product / product.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares(Ensemble([one, two], method="logits"), tasks.TEXTS), expected, rtol=1e-4)
    votes = shares(Ensemble([one, two], [0.7, 0.3], "vote"), tasks.TEXTS)
    best = shares(one, tasks.TEXTS).argmax(axis=1)
    assert (votes.argmax(axis=1) == best).all() and votes.sum(axis=1) == pytest.approx(1)
    assert set(np.round(votes.ravel(), 5).tolist()) <= {0, 0.3, 0.7, 1}


def test_fitted_weights_prefer_who_is_right(load: Any) -> None:
    one, two = load("classes"), load("classes", **TURNED)
    stack = Ensemble([one, two], method="stack")
    with pytest.raises(RequestError, match="call fit"):
        stack.classify("the cat")
    names = np.array(["calm", "angry", "glad"])
    weights = stack.fit(tasks.TEXTS, names[shares(two, tasks.TEXTS).argmax(axis=1)].tolist())
    assert weights.sum() == pytest.approx(1) and weights[1] > 0.95
    assert stack.classify(tasks.TEXTS) is not None
    mixed = names[shares(one, tasks.TEXTS).argmax(axis=1)].tolist()
    mixed[::2] = names[shares(two, tasks.TEXTS).argmax(axis=1)].tolist()[::2]
    assert 0.3 < stack.fit(tasks.TEXTS, mixed)[0] < 0.7


def test_embedders(load: Any, tmp_path: Path) -> None:
    with lepton_edge.load(tasks.write_sentences(tmp_path / "cls", ["cls"]), threads=1) as other:
        one = load("embed")
        found = Ensemble([one, other]).embed(tasks.TEXTS)
        assert found.shape == (6, 48)
        cosine = (one.similarity(one.embed(tasks.TEXTS), one.embed(tasks.TEXTS))
                  + other.similarity(other.embed(tasks.TEXTS), other.embed(tasks.TEXTS))) / 2  # fmt: skip
        np.testing.assert_allclose(found @ found.T, cosine, atol=1e-5)


def test_decoders(tmp_path: Path) -> None:
    with lepton_edge.load(recipe.write_folder("llama_smollm", tmp_path / "llama"), threads=1) as model:
        ids = [3, 4, 5]
        plain = model.logits(ids)
        found = Ensemble([model, model], method="mean").logits(ids)
        np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, rtol=1e-4)
        np.testing.assert_allclose(found - found[:, :1], plain - plain[:, :1], atol=1e-4)
        np.testing.assert_allclose(Ensemble([model, model], method="logits").logits(ids), plain, atol=1e-5)
        text = Ensemble([model, model]).generate("w3 w4 w5", max_tokens=8)
        assert text == model.generate("w3 w4 w5", max_tokens=8)
        with pytest.raises(RequestError, match="not by 'vote'"):
            Ensemble([model], method="vote").logits(ids)


def test_wrong_ensembles(load: Any) -> None:
    one = load("classes")
    with pytest.raises(RequestError, match="models is 3; expected a list of models"):
        Ensemble(3)
    with pytest.raises(RequestError, match="models is empty"):
        Ensemble([])
    with pytest.raises(RequestError, match="method is 'median'"):
        Ensemble([one], method="median")
    for weights in ([1, 2], [-1], [0], ["a"], [float("nan")]):
        with pytest.raises(RequestError, match="expected 1 numbers"):
            Ensemble([one], weights)
    with pytest.raises(RequestError, match="nli has the labels contradiction, neutral, entailment, and classes calm"):
        Ensemble([one, load("nli")]).classify("a")
    with pytest.raises(RequestError, match="2 texts, 1 labels"):
        Ensemble([one], method="stack").fit(["a", "b"], ["calm"])
    with pytest.raises(RequestError, match="embed is no decoder"):
        Ensemble([load("embed")]).logits([3])
