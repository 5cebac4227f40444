"""Passages of files; an index in one file; an exact search of it."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tasks

from lepton_edge.checkpoint.safetensors import Entry, write_safetensors
from lepton_edge.errors import CheckpointError, MachineError, RequestError
from lepton_edge.tasks import search
from lepton_edge.tasks.search import Index, _largest, build_index, passages


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    (folder / "more").mkdir(parents=True)
    (folder / "a.txt").write_text("the cat sat\non the mat .\n \n\nthe dog ran\n", encoding="utf-8")
    (folder / "more" / "b.md").write_bytes(b"\n\nmoney \xff risk\n\n" + b"bird " * 250)
    (folder / "c.bin").write_text("no text")
    return folder


def test_passages(notes: Path) -> None:
    found = list(passages(notes))
    assert [(Path(item["file"]).name, item["line"]) for item in found] == [
        ("a.txt", 1), ("a.txt", 5), ("b.md", 3), ("b.md", 5), ("b.md", 5), ("b.md", 5)]  # fmt: skip
    assert [item["text"] for item in found[:3]] == ["the cat sat on the mat .", "the dog ran", "money \ufffd risk"]
    assert [len(item["text"].split()) for item in found[3:]] == [120, 120, 10]
    assert [item["text"] for item in passages(notes / "c.bin")] == ["no text"]
    with pytest.raises(RequestError, match="no such file or folder"):
        list(passages(notes / "none"))


def test_only_files_are_read(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders, pipes and links to nowhere with a text file's name are none; a file that cannot be read is an error."""
    (notes / "d.txt").mkdir()
    (notes / "link.txt").symlink_to("nowhere")
    if hasattr(os, "mkfifo"):
        os.mkfifo(notes / "pipe.txt")
    assert len(list(passages(notes))) == 6

    def refuse(self: Path, **options: str) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(RequestError, match=r"a\.txt: cannot be read"):
        list(passages(notes))


def test_a_search_is_exact(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, path = load("embed"), tmp_path / "index"
    texts = [f"{a} {b} {c}" for a in tasks.WORDS[5:14] for b in tasks.WORDS[5:12] for c in ("cat", "money")]
    found = [{"file": "f", "line": i, "text": text} for i, text in enumerate(texts)]
    assert build_index(model, found, path, "mine") == len(texts)
    monkeypatch.setattr(search, "BLOCK", 17)
    queries = ["the dog", "money money"]
    vectors = model.embed(texts, normalize=True)
    with Index(path) as index:
        assert (len(index), index.width, index.model) == (126, 24, "mine")
        rows = index.search(model.embed(queries), 7)
        every = index.search(model.embed("the dog"), 200)[0]
        assert len(every) == 126 and [item["line"] for item in every[:7]] == [item["line"] for item in rows[0]]
    for query, row in zip(queries, rows, strict=True):
        scores = vectors @ model.embed(query, normalize=True)
        best = np.argsort(-scores, kind="stable")[:7]
        assert [item["line"] for item in row] == best.tolist()
        assert [item["score"] for item in row] == pytest.approx(scores[best].tolist(), abs=1e-5)
        assert row[0]["text"] == texts[best[0]]
    assert [item.name for item in tmp_path.iterdir()] == ["index"]


def test_refused_requests(load: Any, tmp_path: Path) -> None:
    model, path = load("embed"), tmp_path / "index"
    with pytest.raises(CheckpointError, match="no such file; expected an index"):
        Index(tmp_path / "none")
    with pytest.raises(RequestError, match="no passage"):
        build_index(model, [], path, "m")
    with pytest.raises(MachineError, match="cannot be written"):
        build_index(model, [{"file": "f", "line": 1, "text": "a"}], tmp_path / "no" / "index", "m")
    build_index(model, [{"file": "f", "line": 1, "text": "a"}], path, "m")
    with Index(path) as index:
        with pytest.raises(RequestError, match="have 3 numbers each, and the index 24"):
            index.search(np.zeros((1, 3), np.float32))
        with pytest.raises(RequestError, match="top_k is 0"):
            index.search(np.zeros((1, 24), np.float32), 0)


def write(path: Path, ends: list[int], texts: bytes, rows: int = 2, metadata: dict | None = None) -> Path:
    arrays = {"vectors": ("F32", np.ones((rows, 2), np.float32)), "ends": ("I64", np.array(ends, np.int64)),
              "passages": ("U8", np.frombuffer(texts, np.uint8))}  # fmt: skip
    entries = [Entry(name, dtype, array.shape, lambda array=array: [array.reshape(-1).view(np.uint8)])
               for name, (dtype, array) in arrays.items()]  # fmt: skip
    write_safetensors(path, entries, {"lepton_index": "1"} if metadata is None else metadata)
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(ends=[2, 4], texts=b"{}{}", metadata={"a": "b"}), "is no index of version 1"),
        (dict(ends=[2, 4], texts=b"{}{}", rows=3), "do not fit each other"),
        (dict(ends=[], texts=b"", rows=0), "do not fit each other"),
        (dict(ends=[4, 2], texts=b"{}{}"), "the ends of its passages are wrong"),
        (dict(ends=[2, 5], texts=b"{}{}"), "the ends of its passages are wrong"),
        (dict(ends=[-1, 4], texts=b"{}{}"), "the ends of its passages are wrong"),
    ],
)
def test_damaged_indexes(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        Index(write(tmp_path / "index", **options))


def test_damaged_passages(tmp_path: Path) -> None:
    with Index(write(tmp_path / "index", [2, 5], b"{}nul")) as index:
        assert index.passage(0) == {}
        with pytest.raises(CheckpointError, match="invalid JSON"):
            index.search(np.ones((1, 2), np.float32))
    (tmp_path / "other").write_text(json.dumps({}))
    with pytest.raises(CheckpointError):
        Index(tmp_path / "other")


@pytest.mark.parametrize("count", [1, 5, 49, 50, 80])
def test_the_largest(count: int) -> None:
    """Those that sorting all gives, with many equal ones, and with NaN among them."""
    scores = (np.random.default_rng(count).integers(0, 6, 50) / 8).astype(np.float32)
    np.testing.assert_array_equal(_largest(scores, count), np.argsort(-scores, kind="stable")[:count])
    scores[7] = np.nan
    np.testing.assert_array_equal(_largest(scores, count), np.argsort(-scores, kind="stable")[:count])
