"""Log-likelihoods follow from the logits; perplexity is that of transformers' definition."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import recipe, tasks

import lepton_edge
from lepton_edge.errors import ContextLengthError, RequestError

TEXT = " ".join(f"w{i}" for i in tasks.STORY)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[lepton_edge.Model]:
    folder: Path = recipe.write_folder("llama_smollm", tmp_path_factory.mktemp("scoring") / "llama")
    with lepton_edge.load(folder, threads=1) as model:
        yield model


def test_scores_follow_from_the_logits(model: lepton_edge.Model) -> None:
    found = model.score([TEXT, "w3 w4"])
    ids = found[0]["tokens"]
    assert ids == model.tokenizer.encode(TEXT)
    logits = model.logits(ids)[:-1].astype(np.float64)
    expected = logits[np.arange(len(ids) - 1), ids[1:]] - np.log(np.exp(logits).sum(axis=1))
    assert found[0]["log_probabilities"][0] is None
    np.testing.assert_allclose(found[0]["log_probabilities"][1:], expected, atol=1e-5)
    assert found[0]["log_likelihood"] == pytest.approx(expected.sum(), rel=1e-6)
    assert found[0]["perplexity"] == pytest.approx(np.exp(-expected.mean()), rel=1e-6)
    assert model.score("w3 w4") == found[1]


@pytest.mark.parametrize(("size", "stride"), tasks.WINDOWS)
def test_perplexity_is_that_of_transformers(model: lepton_edge.Model, size: int, stride: int) -> None:
    ids = model.tokenizer.encode_pair(TEXT).ids
    assert ids[-len(tasks.STORY) :] == tasks.STORY.tolist()
    assert len(ids) == len(tasks.STORY), "the tokenizer of this model adds no token"
    seen: list[tuple[int, int]] = []
    found = model.perplexity(TEXT, size, stride, progress=lambda *done: seen.append(done))
    assert found["perplexity"] == pytest.approx(tasks.answers()["perplexity"][f"{size} {stride}"], rel=1e-5)
    assert found["tokens"] == 150 and seen[-1] == (150, 150) and len(seen) == found["windows"]


def test_bad_requests(model: lepton_edge.Model, load: Any) -> None:
    found = model.score(["w3 w4", "", 3, "w3 " * 300, "\ud800"], errors="return")
    assert "perplexity" in found[0]
    assert "expected at least two" in found[1]["error"] and "the text is 3" in found[2]["error"]
    assert "perplexity(text, context, stride)" in found[3]["error"] and "surrogate" in found[4]["error"]
    with pytest.raises(ContextLengthError):
        model.score("w3 " * 300)
    for options in (dict(context=1), dict(context=257), dict(context=9, stride=10), dict(stride=0)):
        with pytest.raises(RequestError, match="expected a whole number"):
            model.perplexity(TEXT, **options)
    with pytest.raises(RequestError, match="score needs a model that writes text, and embed is an encoder"):
        load("embed").score("a")
