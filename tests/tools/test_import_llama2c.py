"""stories260K from three files: the same model, and one that tells stories."""

import struct
from pathlib import Path

import numpy as np
import pytest
from golden.naive import forward

from lepton_edge.checkpoint.store import Checkpoint
from lepton_edge.models.registry import spec_of
from lepton_edge.runtime import Engine
from tools import import_llama2c


@pytest.fixture(scope="module")
def stories(shared: Path) -> Path:
    return shared / "models" / "stories260k"


def test_both_versions_hold_the_same_model(stories: Path) -> None:
    sizes, zero = import_llama2c.read(stories / "stories260K.bin")
    assert sizes == dict(dim=64, hidden=172, layers=5, heads=8, kv_heads=4, vocab=512, length=512)
    others, one = import_llama2c.read(stories / "stories260K_v1.bin")
    assert others == sizes and one.keys() == zero.keys()
    assert all(np.array_equal(zero[name], one[name]) for name in zero)


def test_the_gguf_holds_it_too(stories: Path) -> None:
    pytest.importorskip("gguf", reason="needs the package gguf (the extra `bench`)")
    _, zero = import_llama2c.read(stories / "stories260K.bin")
    _, found = import_llama2c.read(stories / "stories260K.gguf")
    found.pop("lm_head.weight", None)
    assert found.keys() == zero.keys()
    assert all(np.array_equal(zero[name], found[name]) for name in zero)


def words(path: Path) -> list[bytes]:
    """llama2.c's tokenizer file: the longest piece, then score, length and bytes of each."""
    data, at, found = path.read_bytes(), 4, []
    while at < len(data):
        size = struct.unpack("<i", data[at + 4 : at + 8])[0]
        found.append(data[at + 8 : at + 8 + size])
        at += 8 + size
    return found


def test_it_tells_a_story(stories: Path, tmp_path: Path) -> None:
    """Greedily, from nothing; and its logits are those of a plain decoder in float64."""
    folder = import_llama2c.write(*import_llama2c.read(stories / "stories260K.bin"), tmp_path / "model")
    with Checkpoint.open(folder) as checkpoint:
        spec = spec_of(checkpoint)
        engine = Engine.load(checkpoint, spec, threads=1)
        exact = {name: checkpoint.weight(name).to_f32() for name in spec.tensors()}
        ids, slot, rows = [1], engine.open(), []
        while len(ids) < 60:
            rows.append(engine.forward(ids[-1:], [slot], [len(ids) - 1], [0])[0])
            ids.append(int(rows[-1].argmax()))
        engine.close()
    expected = forward(spec, exact, np.array(ids[:-1]))
    assert np.linalg.norm(np.array(rows) - expected) <= 1e-5 * np.linalg.norm(expected)
    pieces = words(stories / "tok512.bin")
    text = b"".join(pieces[token] for token in ids[1:]).decode()
    assert text.strip().startswith("Once upon a time, there was a little girl named Lily.")


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.bin"
    path.write_bytes(bytes(400))
    with pytest.raises(SystemExit, match="not a llama2"):
        import_llama2c.read(path)
    path.write_bytes(struct.pack("<7i", 8, 8, 1, 2, 2, 4, 4) + bytes(40))
    with pytest.raises(SystemExit, match="ends within"):
        import_llama2c.read(path)
