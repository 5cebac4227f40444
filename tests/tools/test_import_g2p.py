"""g2p_en's encoder-decoder in our folder: the sounds that its formulas give, for random weights and the real ones."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import lepton_edge
from lepton_edge.tasks.transcribe import transcribe
from tools import import_g2p
from tools.import_g2p import LETTERS, SOUNDS

UNITS = 24
SHAPES = {name: import_g2p.shape_of(name, UNITS) for name in (
    *(f"{part}_{kind}" for part in ("enc", "dec") for kind in import_g2p.NAMES), "fc_w", "fc_b")}  # fmt: skip


def made(path: Path, seed: int = 3, **changes: np.ndarray) -> Path:
    """A file as g2p_en's, of random weights that write words of all lengths."""
    rng = np.random.default_rng(seed)
    found = {name: (rng.standard_normal(shape) / (1 if len(shape) == 1 else UNITS**0.5 / 3)).astype(np.float32)
             for name, shape in SHAPES.items()}  # fmt: skip
    np.savez(path, **(found | changes))
    return path


def cell(w: dict[str, np.ndarray], part: str, x: np.ndarray, h: np.ndarray) -> np.ndarray:
    """A GRU's step."""
    of_x, of_h = w[f"{part}_w_ih"] @ x + w[f"{part}_b_ih"], w[f"{part}_w_hh"] @ h + w[f"{part}_b_hh"]
    (xr, xz, xn), (hr, hz, hn) = np.split(of_x, 3), np.split(of_h, 3)
    z = 1 / (1 + np.exp(-(xz + hz)))
    return (1 - z) * np.tanh(xn + hn / (1 + np.exp(-(xr + hr)))) + z * h


def predict(w: dict[str, np.ndarray], word: str) -> list[str]:
    """The sounds of a word: letters and an end through the encoder, then the likeliest sound at most twenty times."""
    h = np.zeros(len(w["enc_w_hh"][0]), np.float32)
    for letter in [*word, "</s>"]:
        h = cell(w, "enc", w["enc_emb"][LETTERS.index(letter) if letter in LETTERS else LETTERS.index("<unk>")], h)
    sounds, last = [], SOUNDS.index("<s>")
    for _ in range(20):
        h = cell(w, "dec", w["dec_emb"][last], h)
        last = int((w["fc_w"] @ h + w["fc_b"]).argmax())
        if SOUNDS[last] == "</s>":
            break
        sounds.append(SOUNDS[last])
    return sounds


def test_random_weights(tmp_path: Path) -> None:
    """Words of one letter to forty, with signs that are none, and capitals, which count as small letters."""
    source = made(tmp_path / "some.npz", fc_b=np.where(np.arange(74) == 3, 2, 0).astype(np.float32))
    import_g2p.convert(source, tmp_path / "model")
    rng = np.random.default_rng(1)
    words = ["".join(rng.choice([*"abcdefghijklmnopqrstuvwxyz'é"], n)) for n in range(41) for _ in range(3)]
    with np.load(source) as w, lepton_edge.load(tmp_path / "model", threads=1) as model:
        weights = dict(w)
        found = transcribe(model, words)
        assert found == [predict(weights, word) for word in words]
        assert {20} < set(map(len, found)), "some end, and others do not"
        assert transcribe(model, "WORD") == transcribe(model, "word") == predict(weights, "word")


def test_the_real_model_says_what_its_formulas_say(shared: Path, tmp_path: Path) -> None:
    source = shared / "models" / "g2p_en" / "checkpoint20.npz"
    if not source.is_file():
        pytest.skip(f"needs {source}")
    import_g2p.convert(source, tmp_path / "model")
    text = (shared / "text" / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8").lower()
    words = sorted(set(re.findall("[a-z]+", text)))[::16]
    assert len(words) >= 500
    with np.load(source) as w, lepton_edge.load(tmp_path / "model") as model:
        weights = dict(w)
        assert transcribe(model, words) == [predict(weights, word) for word in words]
        assert transcribe(model, "shakespeare") == ["SH", "EY1", "K", "S", "P", "IY2", "R"]


def test_what_is_another_file_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "model"
    (tmp_path / "text.npz").write_text("no archive")
    wrong = {
        "cannot be read": tmp_path / "text.npz",
        "cannot be read as": tmp_path / "absent.npz",
        "enc_w_ih is float32 \\[72, 23\\]; expected": made(tmp_path / "a.npz", enc_w_ih=np.ones((72, 23), np.float32)),
        "fc_b is int64": made(tmp_path / "b.npz", fc_b=np.ones(74, int)),
        "cannot be read as an npz": made(tmp_path / "c.npz", fc_b=np.array([None] * 74)),
        "expected g2p_en's": made(tmp_path / "d.npz", more=np.ones(1)),
    }
    for says, source in wrong.items():
        with pytest.raises(SystemExit, match=says):
            import_g2p.convert(source, target)
        assert not target.exists()


def test_the_folder_is_whole(tmp_path: Path) -> None:
    import_g2p.convert(made(tmp_path / "some.npz"), tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["id2label"]["67"] == "UW1" and len(SOUNDS) == 74 and len(set(SOUNDS)) == 74
