"""Languages, prefixes and what a folder says of its texts, on the small models of tests/golden/seq2seq.py."""


import json
import re

import pytest
from pair_folders import DE, EN, folder_of

import lepton_edge
from lepton_edge.errors import ConfigError, RequestError
from lepton_edge.tasks.translate import with_language, writing


@pytest.mark.parametrize("template", [False, True])
@pytest.mark.parametrize(("languages", "codes"), [
    (("__en__", "__de__"), ("en", "de")), (("eng_Latn", "deu_Latn"), ("eng_Latn", "deu_Latn")),
    (("en_XX", "de_DE"), ("en_XX", "de_DE")),
])  # fmt: skip
def test_languages(tmp_path, template, languages, codes) -> None:
    with lepton_edge.load(folder_of(tmp_path / "m", "m2m100", languages, template)) as model:
        found = model.translate("w5 w6", source=codes[1], target=codes[0])
        assert [found] == writing(model, forced_first=EN).answers([[DE, 5, 6, 2]], 1, "raise", None)
        assert with_language(model, model.tokenizer.encode("w5 w6"), DE) == [DE, 5, 6, 2]
        assert with_language(model, [5, 6, 2, EN], DE) == [5, 6, 2, DE]
        assert found.startswith(languages[0])
        assert model.translate("w5 w6", target=codes[1]).startswith(languages[1])
        with pytest.raises(RequestError, match="target is 'xx', which is no language"):
            model.translate("w5", target="xx")
        with pytest.raises(RequestError, match="source is 'w5', which is no language"):
            model.translate("w5", source="w5")


def test_t5_is_told_in_words(tmp_path) -> None:
    with lepton_edge.load(folder_of(tmp_path / "m", "t5", ("translate", "to"))) as model:
        told = model.translate(["w5 w6"], source="w7", target="w8", beams=2)
        assert told == model.translate(["translate w7 to w8: w5 w6"], beams=2) != model.translate(["w5 w6"], beams=2)
        with pytest.raises(RequestError, match="both languages, or none"):
            model.translate("w5", source="w7")


def test_what_the_folder_says(tmp_path) -> None:
    said = dict(num_beams=3, no_repeat_ngram_size=2, max_length=7, min_length=4, length_penalty=0.5)
    plain, other = folder_of(tmp_path / "a", "t5"), folder_of(tmp_path / "b", "t5", **said)
    text = "w5 w6 w7 w8"
    with lepton_edge.load(plain) as model, lepton_edge.load(other) as told:
        asked = dict(beams=3, no_repeat_ngram_size=2, max_tokens=6, length_penalty=0.5)
        assert told.summarize(text) == told.summarize(text, **asked) != model.summarize(text)
        assert len(model.summarize(text).split()) <= 8
        assert [told.generate(text)] == told.summarize([text])


@pytest.mark.parametrize(("said", "message"), [
    (dict(num_beams=0), "num_beams"), (dict(forced_bos_token_id=59), "forced_bos_token_id"),
    (dict(bad_words_ids=[[77]]), "bad_words_ids"), (dict(suppress_tokens=["a"]), "suppress_tokens"),
    (dict(length_penalty="x"), "length_penalty"), (dict(length_penalty=1e6), "length_penalty"),
    (dict(max_length=1), "max_length"), (dict(num_beams=2, early_stopping="sometimes"), "early_stopping"),
])  # fmt: skip
def test_wrong_generation_configs(tmp_path, said, message) -> None:
    path = folder_of(tmp_path / "m", "t5", **said)
    with lepton_edge.load(path) as model, pytest.raises(ConfigError, match=message):
        model.translate("w5")


@pytest.mark.parametrize("wrong", [
    dict(length_penalty=1e6), dict(length_penalty=float("nan")), dict(length_penalty="x"), dict(beams=33),
    dict(forced_first=59), dict(forced_first=-1), dict(no_repeat_ngram_size=1.5),
])  # fmt: skip
def test_wrong_arguments(tmp_path, wrong) -> None:
    with lepton_edge.load(folder_of(tmp_path / "m", "t5")) as model:
        with pytest.raises(RequestError, match=next(iter(wrong))):
            model.summarize("w5", **{"beams": 2, **wrong})
        assert model.summarize("w5")


@pytest.mark.parametrize("asked", [dict(beams=1), dict(beams=2), dict(temperature=1.0)])
def test_a_folder_that_forbids_every_token(tmp_path, asked) -> None:
    path = folder_of(tmp_path / "m", "t5", suppress_tokens=list(range(59)))
    with lepton_edge.load(path) as model, pytest.raises(RequestError, match="no token may follow"):
        model.summarize("w5", **asked)


TEXTS = ["w5 w6 w7", "w9", "w5 w6 w7 w8 w9 w10", "w12 w11"]


@pytest.mark.parametrize("task", ["translate", "summarize"])
def test_lists_and_generators(tmp_path, task) -> None:
    """One, a list in its order, and a generator, which reads no more than it must; progress as of the other tasks."""
    with lepton_edge.load(folder_of(tmp_path / "m", "bart")) as model:
        ask, seen, read = getattr(model, task), [], []
        alone = [ask(text) for text in TEXTS]
        assert len(set(alone)) > 1
        assert ask(TEXTS, batch_size=3, progress=lambda *done: seen.append(done)) == alone == ask(tuple(TEXTS))
        assert seen == [(3, 4), (4, 4)]
        found = ask((read.append(text) or text for text in TEXTS), batch_size=2)
        assert (next(found), read) == (alone[0], TEXTS[:2])
        assert list(found) == alone[1:]
        assert ask([]) == [] == list(ask(iter([])))


@pytest.mark.parametrize("task", ["translate", "summarize"])
def test_bad_texts(tmp_path, task) -> None:
    """They raise, with the row; or they are told, and no other is lost."""
    bad = {3: "the text is 3", b"w5": "the text is b'w5'", "w5 \ud800": "surrogate", None: "the text is None",
           "w5 " * 400: "400 tokens|401 tokens", (): "no tokens", ("w5", "w6"): "expected a string"}  # fmt: skip
    with lepton_edge.load(folder_of(tmp_path / "m", "bart")) as model:
        ask = getattr(model, task)
        found = ask([TEXTS[0], *bad, TEXTS[1]], errors="return")
        assert found[0] == ask(TEXTS[0]) and found[-1] == ask(TEXTS[1])
        for (text, message), answer in zip(bad.items(), found[1:-1], strict=True):
            assert list(answer) == ["error"] and re.search(message, answer["error"]), answer
            with pytest.raises(RequestError, match=f"row 1: .*({message})"):
                ask([TEXTS[0], text])
        assert ask("") == ask([[2]])[0]
        with pytest.raises(RequestError, match="errors is 'ignore'"):
            ask(TEXTS, errors="ignore")


def test_a_text_without_tokens(tmp_path) -> None:
    """Of a tokenizer that ends texts with nothing."""
    path = folder_of(tmp_path / "m", "bart")
    settings = json.loads((path / "tokenizer.json").read_text())
    (path / "tokenizer.json").write_text(json.dumps({**settings, "post_processor": None}))
    with lepton_edge.load(path) as model:
        assert model.translate(["w5", ""], errors="return")[1]["error"].startswith("the text is empty")


def test_drawn_texts(tmp_path) -> None:
    """The same seed, the same texts; neighbours of one source are not alike."""
    with lepton_edge.load(folder_of(tmp_path / "m", "t5")) as model:
        draw = lambda seed: model.translate(["w5"] * 5, temperature=3.0, seed=seed, batch_size=1)  # noqa: E731
        assert draw(1) == draw(1) != draw(2) and len(set(draw(1))) > 1


def test_other_models_are_refused() -> None:
    with lepton_edge.load() as model:
        for call in (model.translate, model.summarize):
            with pytest.raises(RequestError, match="has no encoder and decoder"):
                call("w5")


def test_what_only_other_models_do(tmp_path) -> None:
    """The decoder of a pair continues nothing by itself, and has no hidden states without a source."""
    with lepton_edge.load(folder_of(tmp_path / "m", "bart")) as model:
        for call in (model.score, model.perplexity):
            with pytest.raises(RequestError, match="needs a model that writes text, and m is an encoder-decoder"):
                call("w5 w6")
        for call in (model.embed, lambda text: model.run([[5, 6]], hidden=True), lambda text: model.run([[5, 6]])):
            with pytest.raises(RequestError, match="bart models answer a source"):
                call("w5 w6")
