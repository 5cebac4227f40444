"""The Python interface on small real models: arguments, folders, errors, threads, cancelling."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from golden import recipe

import lepton_edge as lepton
from lepton_edge import api, embedded
from lepton_edge.errors import (
    Cancelled,
    ConfigError,
    ContextLengthError,
    LeptonError,
    ModelError,
    RequestError,
    TokenizerError,
)
from lepton_edge.generate.params import SamplingParams

NAME = "llama_smollm"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recipe.write_folder(NAME, tmp_path_factory.mktemp("models") / NAME)


@pytest.fixture(scope="module")
def model(folder: Path):
    with lepton.load(folder, threads=2) as model:
        yield model


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A folder that the test may damage."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def greedy(model: lepton.Model, ids: list[int], count: int) -> list[int]:
    """The twin: the whole sequence anew for each token."""
    ids = list(ids)
    for _ in range(count):
        ids.append(int(model.logits(ids)[-1].argmax()))
    return ids[-count:]


# What comes out


def test_logits_are_those_of_transformers(model: lepton.Model) -> None:
    golden = recipe.load(NAME)["logits"]
    logits = model.logits(recipe.token_ids(recipe.BY_NAME[NAME]))
    assert logits.dtype == np.float32 and logits.shape == golden.shape
    assert np.linalg.norm(logits - golden) <= 1e-5 * np.linalg.norm(golden)


def test_logits_of_more_tokens_than_are_copied_at_a_time(model: lepton.Model) -> None:
    ids = np.arange(200) % model.vocab
    logits = model.logits(ids)
    np.testing.assert_allclose(logits[:100], model.logits(ids[:100]), atol=1e-4)


def test_generate_is_the_greedy_text(model: lepton.Model) -> None:
    prompt = [1, 5, 9]
    pieces = list(model.stream(prompt, max_tokens=12))
    expected = greedy(model, prompt, 12)
    ends = [i for i, token in enumerate(expected) if token in model.tokenizer.eos_ids]
    expected = expected[: ends[0] + 1] if ends else expected
    assert [piece.token for piece in pieces] == expected
    text = model.generate(prompt, max_tokens=12)
    assert text == "".join(piece.text for piece in pieces)
    before = model.tokenizer.decode(prompt)
    assert before + text == model.tokenizer.decode([*prompt, *expected])


def test_text_and_its_ids_are_the_same_prompt(model: lepton.Model) -> None:
    text = model.tokenizer.decode([20, 30, 40])
    ids = model.tokenizer.encode(text)
    expected = model.generate(text, max_tokens=8)
    for prompt in (ids, tuple(ids), np.array(ids), np.array(ids, np.uint8)):
        assert model.generate(prompt, max_tokens=8) == expected


def test_the_same_seed_gives_the_same_text(model: lepton.Model) -> None:
    texts = [model.generate([1], temperature=1.5, seed=seed, max_tokens=30) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert len({model.generate([1], temperature=1.5, max_tokens=30) for _ in range(3)}) == 3


def test_what_a_model_says_of_itself(model: lepton.Model, folder: Path) -> None:
    config = recipe.BY_NAME[NAME].config
    assert (model.folder, model.format, model.context) == (folder, "f32", config["max_position_embeddings"])
    assert (model.vocab, model.spec.hidden) == (config["vocab_size"], config["hidden_size"])
    assert model.tokenizer.eos_ids == {2}
    assert model.engine.threads == 2
    assert repr(model) == f"<lepton_edge.Model {NAME}: llama, f32, context 256>"


@pytest.mark.parametrize("format", ["q4", "q8", "bf16"])
def test_formats(folder: Path, format: str) -> None:
    with lepton.load(folder, format=format, context=32) as model:
        assert (model.format, model.context) == (format, 32)
        assert len(list(model.stream([1], max_tokens=3))) <= 3


def test_defaults_come_from_generation_config(copy: Path) -> None:
    config = {"do_sample": True, "temperature": 0.5, "top_k": 7, "max_new_tokens": 5, "eos_token_id": []}
    (copy / "generation_config.json").write_text(json.dumps(config))
    tokenizer_config = copy / "tokenizer_config.json"
    tokenizer_config.unlink()
    with lepton.load(copy) as model:
        assert model.defaults == SamplingParams(5, 0.5, 7)
        assert len(list(model.stream([1]))) == 5
        assert len(list(model.stream([1], max_tokens=7))) == 7
        assert [p.token for p in model.stream([1, 5], temperature=0)] == greedy(model, [1, 5], 5)


# What goes in


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "prompt has no tokens"),
        ([1, -1], "prompt has token id -1; this model knows 0 to 100"),
        ([101], "token id 101"),
        ([1 << 70], "token id"),
        ([1.0], "expected text or a list of token ids"),
        (["a"], "expected text or a list of token ids"),
        (None, "expected text or a list of token ids"),
        (5, "expected text or a list of token ids"),
        (b"\x01\xff", "token id 255"),
        (np.zeros((2, 2), int), "expected text or a list of token ids"),
        (np.zeros(2), "expected text or a list of token ids"),
        ("\ud800", "surrogate"),
    ],
)
def test_wrong_prompts(model: lepton.Model, prompt: object, message: str) -> None:
    for call in (model.generate, model.stream):
        with pytest.raises(RequestError, match=message):
            call(prompt)  # type: ignore[operator]


def test_a_prompt_that_is_too_long(model: lepton.Model) -> None:
    assert len(list(model.stream([1] * 256, max_tokens=9))) == 1
    for call in (model.generate, model.stream, model.logits):
        with pytest.raises(ContextLengthError, match="has 257 tokens, but the context holds 256"):
            call([1] * 257)


def test_an_empty_prompt(copy: Path) -> None:
    data = json.loads((copy / "tokenizer.json").read_text())
    data["post_processor"] = None
    (copy / "tokenizer.json").write_text(json.dumps(data))
    with lepton.load(copy) as model, pytest.raises(RequestError, match="prompt is empty"):
        model.generate("")


@pytest.mark.parametrize(
    "options", [{"temperature": -1}, {"top_k": "5"}, {"seed": -1}, {"stop": [""]}, {"max_tokens": 0}, {"top_p": 0}]
)
def test_wrong_options_are_refused_at_once(model: lepton.Model, options: dict) -> None:
    with pytest.raises(RequestError, match=f"^{next(iter(options))} is "):
        model.stream([1], **options)


def test_logits_take_ids_only(model: lepton.Model) -> None:
    with pytest.raises(RequestError, match=r"model\.tokenizer\.encode"):
        model.logits("text")  # type: ignore[arg-type]


def test_ids_that_the_tokenizer_has_and_the_model_lacks(copy: Path) -> None:
    data = json.loads((copy / "tokenizer.json").read_text())
    token = {"id": 101, "content": "<extra>", "special": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    data["added_tokens"].append(token | flags)
    (copy / "tokenizer.json").write_text(json.dumps(data))
    with lepton.load(copy) as model, pytest.raises(RequestError, match="token id 101; this model knows 0 to 100"):
        model.generate("<extra>")


@pytest.mark.parametrize(
    "options",
    [
        {"format": 4},
        {"format": "q3"},
        {"threads": 0},
        {"threads": True},
        {"threads": "2"},
        {"isa": 1},
        {"context": 0},
        {"context": 257},
        {"kv_dtype": "f8"},
    ],
)
def test_wrong_options_of_load(folder: Path, options: dict) -> None:
    name = next(iter(options))
    with pytest.raises(RequestError, match=name):
        lepton.load(folder, **options)


# Folders


@pytest.mark.parametrize("path", ["", "a\0b", 5, b"model", ["model"]])
def test_paths_that_are_none(path: object) -> None:
    with pytest.raises(RequestError, match="expected a model folder"):
        lepton.load(path)  # type: ignore[arg-type]


def test_folders_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    cases = {
        "empty": r"^empty: has no config\.json; expected a Hugging Face model folder",
        "model.gguf": r"^model\.gguf: is a file; expected a Hugging Face model folder",
        "org/some-model.v1": r"downloads nothing; .* 'hf download org/some-model\.v1 --local-dir DIR'",
        "nosuch": "^nosuch: no such folder; expected a Hugging Face model folder or an embedded model: ",
        "/no/such/folder": "no such folder",
        "~nobody-of-this-name/x": "no such folder",
        "x" * 5000: "no such folder",
    }
    for path, message in cases.items():
        with pytest.raises(ModelError, match=message) as caught:
            lepton.load(path)
        assert "\n" not in str(caught.value)


def test_embedded_models(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, by default, and after a folder of the same name that is a model; installed or in a source tree."""
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "tree" / "lepton_edge"
    shutil.copytree(folder, tmp_path / "tree" / "weights" / "stories")
    package.mkdir()
    monkeypatch.setattr(embedded, "PACKAGE", package)
    assert embedded.names() == []
    with pytest.raises(ModelError, match="embedded model: none in this installation"):
        lepton.load()
    (tmp_path / "tree" / "pyproject.toml").touch()
    assert embedded.names() == ["stories"]
    source = tmp_path / "tree" / "weights" / "stories"
    assert embedded.model_folder(None) == embedded.model_folder("stories") == embedded.find("stories") == source
    shutil.copytree(folder, package / "weights" / "other")
    assert embedded.names() == ["other", "stories"]
    (tmp_path / "other").mkdir()
    assert embedded.model_folder("other") == package / "weights" / "other"
    shutil.copy(folder / "config.json", tmp_path / "other")
    assert embedded.model_folder("other") == Path("other")
    assert embedded.find("nosuch") is None
    with pytest.raises(ModelError, match=r"or an embedded model: other, stories$"):
        lepton.load("nosuch")


def test_a_model_without_a_tokenizer_computes_logits(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    with lepton.load(copy) as model:
        assert model.logits([1, 2]).shape == (2, 101)
        for use in (lambda: model.tokenizer, lambda: model.generate("a"), lambda: model.stream([1])):
            with pytest.raises(TokenizerError, match=r"tokenizer\.json: no such file"):
                use()


def test_a_broken_tokenizer(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small one is found at once, a large one at the first use: it is read beside the loading of the model."""
    (copy / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        lepton.load(copy)
    monkeypatch.setattr(api.TokenizerLoad, "QUICK_BYTES", 0)
    with lepton.load(copy) as model:
        for _ in range(2):
            with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
                model.generate("a")


def test_a_broken_generation_config(copy: Path) -> None:
    (copy / "generation_config.json").write_text('{"top_p": 7}')
    with pytest.raises(ConfigError, match=r"generation_config\.json: top_p is wrong"):
        lepton.load(copy)


def test_compiling_is_announced(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    from lepton_edge.runtime import Engine

    def load(*arguments: object, notify, **options: object):
        notify("compiling")
        raise LeptonError("enough")

    monkeypatch.setattr(Engine, "load", load)
    lines: list[str] = []
    for notify in (None, lines.append):
        with pytest.raises(LeptonError, match="enough"):
            lepton.load(folder, notify=notify)
    assert lines == ["compiling"]
    assert capsys.readouterr().err == "lepton: compiling\n"
    monkeypatch.setattr(sys, "stderr", None)
    with pytest.raises(LeptonError, match="enough"):
        lepton.load(folder)


# Life


def test_a_closed_model(folder: Path) -> None:
    with lepton.load(folder) as model:
        stream = model.stream([1], max_tokens=20)
        next(stream)
    model.close()
    for use in (
        lambda: model.generate([1]),
        lambda: model.logits([1]),
        lambda: next(stream),
        lambda: model.stream([1]),
    ):
        with pytest.raises(RequestError, match="this model is closed"):
            use()
    model.cancel()


def test_many_threads(model: lepton.Model) -> None:
    prompts = [[1, token] for token in range(10, 16)]
    expected = [model.generate(prompt, max_tokens=20) for prompt in prompts]
    results: list[str] = [""] * len(prompts)

    def work(number: int) -> None:
        results[number] = model.generate(prompts[number], max_tokens=20)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == expected


@pytest.fixture(scope="module")
def heavy(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    """A model of random weights whose prompt takes about a second; no token ends its text."""
    from lepton_edge.models.registry import spec_from_config
    from lepton_edge.quant.random import RandomCheckpoint
    from lepton_edge.runtime import Engine

    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8, "max_position_embeddings": 4096}
    heads = {"num_attention_heads": 16, "num_key_value_heads": 4}
    spec = spec_from_config(recipe.BY_NAME[NAME].config | sizes | heads, "config.json")
    source = RandomCheckpoint(spec.tensors(), "q4")
    engine = Engine.load(source, spec)
    endless = tmp_path_factory.mktemp("heavy")
    shutil.copy(folder / "tokenizer.json", endless)
    checkpoint = SimpleNamespace(folder=endless, close=lambda: None)
    tokenizer = api.TokenizerLoad(endless, spec.vocab)
    with api.Model(checkpoint, spec, engine, tokenizer, SamplingParams(max_tokens=10_000)) as model:  # type: ignore[arg-type]
        yield model


LONG = [1 + i % 90 for i in range(4000)]


def soon(model: lepton.Model, delay: float, act) -> threading.Thread:
    """Does something in a thread, `delay` seconds after a step has begun."""

    def work() -> None:
        while model._shared._stepping is None:
            time.sleep(0.001)
        time.sleep(delay)
        act()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.parametrize("delay", [0.0, 0.1])
@pytest.mark.parametrize("prompt", [LONG, [1]], ids=["prompt", "text"])
def test_cancel_stops_within_50_ms(heavy: lepton.Model, prompt: list[int], delay: float) -> None:
    """The best of three, as the machine may be busy with something else."""
    took = []
    for _ in range(3):
        times: list[float] = []
        thread = soon(heavy, delay, lambda times=times: (times.append(time.perf_counter()), heavy.cancel()))
        with pytest.raises(Cancelled):
            heavy.generate(prompt, repeat_penalty=1.5)
        took.append(time.perf_counter() - times[0])
        thread.join()
        assert heavy.engine._pages.lengths == {}
        assert len(list(heavy.stream([1], max_tokens=2))) == 2
    assert min(took) < 0.05


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs signals sent to a thread")
@pytest.mark.parametrize("delay", [0.0, 0.1])
@pytest.mark.parametrize("prompt", [LONG, [1]], ids=["prompt", "text"])
def test_ctrl_c_stops_within_50_ms(heavy: lepton.Model, prompt: list[int], delay: float) -> None:
    main = threading.get_ident()
    took = []
    for _ in range(3):
        times: list[float] = []

        def interrupt(times: list[float] = times) -> None:
            times.append(time.perf_counter())
            signal.pthread_kill(main, signal.SIGINT)

        thread = soon(heavy, delay, interrupt)
        with pytest.raises(KeyboardInterrupt):
            heavy.generate(prompt)
        took.append(time.perf_counter() - times[0])
        thread.join()
        assert heavy.engine._pages.lengths == {}
        assert len(list(heavy.stream([1], max_tokens=2))) == 2
    assert min(took) < 0.05


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs signals sent to a thread")
def test_cancel_from_a_signal_handler(heavy: lepton.Model) -> None:
    main = threading.get_ident()
    before = signal.signal(signal.SIGINT, lambda *_: heavy.cancel())
    try:
        thread = soon(heavy, 0.05, lambda: signal.pthread_kill(main, signal.SIGINT))
        pieces = list(heavy.stream(LONG))
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert [piece.finish_reason for piece in pieces] == ["cancelled"]


# Imports


def modules_after(code: str) -> set[str]:
    code += "\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_import_brings_only_what_is_needed(model: lepton.Model, folder: Path) -> None:
    """`import lepton_edge`: none of the packages we stand on; a generation with kernels in the cache: no Numba."""
    light = modules_after("import lepton_edge")
    assert not light & {"numpy", "numba", "llvmlite", "tokenizers", "safetensors", "asyncio"}
    used = modules_after(f"import lepton_edge as l; l.load({str(folder)!r}, threads=2).generate([1], max_tokens=2)")
    assert "numba" not in used and "numpy" in used


def test_names() -> None:
    assert lepton.load is api.load and lepton.Model is api.Model and lepton.Piece is api.Piece
    assert set(dir(lepton)) == set(lepton.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        _ = lepton.nosuch  # type: ignore[attr-defined]
