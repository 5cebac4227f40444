"""Languages, prefixes and what a folder says of its texts, on the small models of tests/golden/seq2seq.py."""


import pytest
from pair_folders import DE, EN, folder_of

import lepton_edge
from lepton_edge.errors import ConfigError, RequestError
from lepton_edge.tasks.translate import with_language, write


@pytest.mark.parametrize("template", [False, True])
@pytest.mark.parametrize(("languages", "codes"), [
    (("__en__", "__de__"), ("en", "de")), (("eng_Latn", "deu_Latn"), ("eng_Latn", "deu_Latn")),
    (("en_XX", "de_DE"), ("en_XX", "de_DE")),
])  # fmt: skip
def test_languages(tmp_path, template, languages, codes) -> None:
    with lepton_edge.load(folder_of(tmp_path / "m", "m2m100", languages, template)) as model:
        found = model.translate("w5 w6", source=codes[1], target=codes[0])
        assert found == write(model, [[DE, 5, 6, 2]], forced_first=EN)[0]
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
