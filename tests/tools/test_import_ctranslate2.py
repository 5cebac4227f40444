"""The trained transliteration model in our folder: what CTranslate2 4.8 gives, and files that are damaged."""

import json
import struct
from pathlib import Path

import pytest

import lepton_edge
from lepton_edge.errors import RequestError
from tools.import_ctranslate2 import read, write

SOURCE = Path("/work/shared/data/models/ct2_aren_transliteration/v2")
WORDS = ["آتزمون", "محمد", "يوسف", "خالد", "فاطمة", "عبدالله", "القاهرة", "دمشق", "بغداد", "مريم"]
GREEDY = ["atzmon", "mahmad", "yosf", "khald", "fatma", "abdal", "qahra", "demshk", "baghdad", "merim"]
BEAMS = ["atzmon", "mahmad", "yosf", "khald", "fatma", "abdal", "qahra", "demschik", "baghdad", "merim"]

trained = pytest.mark.skipif(not SOURCE.is_dir(), reason=f"{SOURCE} is not there")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("ct2") / "model"
    write(SOURCE / "aren-transliteration", path)
    return path


@trained
def test_words_are_those_of_ctranslate2(folder) -> None:
    with lepton_edge.load(folder) as model:
        assert model.translate(WORDS, beams=1) == GREEDY
        assert model.translate(WORDS, beams=4) == BEAMS
        assert model.translate(WORDS[0]) == model.generate(WORDS[0]) == GREEDY[0]
        assert model.generate(model.tokenizer.encode(WORDS[1])) == GREEDY[1]
        assert "".join(piece.text for piece in model.stream(WORDS[0])) == GREEDY[0]
        assert model.translate([]) == []
        assert model.translate(WORDS[:2], max_tokens=3) == ["atz", "mah"]
        assert model.generate(WORDS[0], temperature=1.0, seed=4) == model.generate(WORDS[0], temperature=1.0, seed=4)


@trained
def test_wrong_requests(folder) -> None:
    with lepton_edge.load(folder) as model:
        for call, message in (
            (lambda: model.translate(["a", 3]), "row 1: the text is 3"),
            (lambda: model.translate(7), "the text is 7"),
            (lambda: model.translate("a", target="en_XX"), "no language of"),
            (lambda: model.translate("a", beams=1000), "at most 32"),
            (lambda: model.translate(""), "the text is empty"),
            (lambda: model.logits([1, 2]), "answer a source"),
            (lambda: model.stream_chat([{"role": "user", "content": "a"}]), "answer a source"),
            (lambda: model.stream_translate("a", beams=4), "4 beams"),
        ):
            with pytest.raises(RequestError, match=message):
                call()
        assert model.translate(WORDS[0]) == GREEDY[0]


@trained
@pytest.mark.parametrize("kind", ["i16", "i8"])
def test_packed_numbers_are_multiplied_out(kind) -> None:
    name, single = read(SOURCE / "aren-transliteration" / "model.bin")
    _, packed = read(SOURCE / f"aren-transliteration-{kind}" / "model.bin")
    assert name == "TransformerBase" and packed.keys() == single.keys()
    for part, values in single.items():
        step = abs(values).max() / 100 if kind == "i8" else 0.001001  # int16 ones are cut off to thousandths
        assert abs(packed[part] - values).max() <= step, part


def test_damaged_files(tmp_path) -> None:
    path = tmp_path / "model.bin"
    good = struct.pack("<IH", 2, 2) + b"T\0" + struct.pack("<IIH", 2, 1, 2) + b"w\0"
    shape = struct.pack("<BIIBI", 2, 2, 3, 4, 6)
    path.write_bytes(good + shape + bytes(24))
    assert read(path)[1]["w"].shape == (2, 3)
    for data, message in (
        (good + shape + bytes(23), "does not fit"),
        (good + struct.pack("<BIIBI", 2, 2, 3, 3, 6) + bytes(24), "does not fit"),
        (good + struct.pack("<BIIBI", 2, 2, 3, 4, 7) + bytes(28), "does not fit"),
        (good, "ends in the middle"),
        (b"", "ends in the middle"),
        (json.dumps({}).encode() * 9, "binary version 2"),
    ):
        path.write_bytes(data)
        with pytest.raises(SystemExit, match=message):
            read(path)
