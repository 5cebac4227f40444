"""Search of texts by meaning: passages of files, their vectors in one file, and an exact search of it.

An index is a safetensors file: `vectors` F32 [n, d] of length 1, `ends` I64 [n], and `passages` U8, a JSON object for
each, which ends at ends[i].  It is memory-mapped, and a search reads vectors a block at a time.
"""

from __future__ import annotations

import json
import os
import re
import reprlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lepton_edge.checkpoint.safetensors import Entry, SafetensorsFile, write_safetensors
from lepton_edge.checkpoint.strict_json import parse_object
from lepton_edge.errors import CheckpointError, MachineError, RequestError
from lepton_edge.generate.params import whole
from lepton_edge.tasks.embedding import unit

if TYPE_CHECKING:
    from lepton_edge.tasks.mixin import Tasks

__all__ = ["Index", "build_index", "passages"]

VERSION = "1"
WORDS = 120  # of a passage, at most: fewer tokens than small embedders read
BLOCK = 1 << 15  # vectors of which products are in memory at a time
KINDS = {"vectors": "F32", "ends": "I64", "passages": "U8", "vectors's dimensions": "2", "ends's dimensions": "1",
         "passages's dimensions": "1"}  # fmt: skip
SUFFIXES = (".txt", ".md", ".rst", ".text")

Passage = dict[str, Any]


def passages(path: Path) -> Iterator[Passage]:
    """The paragraphs of a text file, or of all in a folder (.txt, .md, .rst), long ones in parts of 120 words.

    Each has its `file`, the `line` that it begins in, and its `text`.  Bytes that are not UTF-8 are replaced.
    Raises RequestError where there is no such file or folder, or one cannot be read.
    """
    if not path.exists():
        raise RequestError(f"{path}: no such file or folder; expected text files")
    found = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
    for file in filter(Path.is_file, found):
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise RequestError(f"{file}: cannot be read ({error}); check its permissions, or leave it out") from error
        for line, words in _paragraphs(text):
            yield {"file": str(file), "line": line, "text": " ".join(words)}


def _paragraphs(text: str) -> Iterator[tuple[int, list[str]]]:
    """The line that each passage begins in, and its words; empty lines end one."""
    words, first, line, end = list[str](), 1, 1, 0
    for found in re.finditer(r"\S+", text):
        breaks = text.count("\n", end, found.start())
        line, end = line + breaks, found.end()
        if words and (breaks > 1 or len(words) == WORDS):
            yield first, words
            words = []
        first = first if words else line
        words.append(found.group())
    if words:
        yield first, words


def build_index(
    model: Tasks, found: Sequence[Passage], target: Path, name: str, progress: Callable[[int, int], None] | None = None
) -> int:
    """Write an index of passages; -> how many it has.  An index that is there already is replaced at the end.

    name: of the model, for those who search.  Raises RequestError for no passage, MachineError where the disk refuses.
    """
    if not found:
        raise RequestError(f"no passage; expected files that end in {', '.join(SUFFIXES)}, with some text")
    vectors = unit(model.embed([item["text"] for item in found], progress=progress))
    raw = [json.dumps(item, ensure_ascii=False).encode("utf-8", "replace") for item in found]
    ends = np.cumsum([len(item) for item in raw], dtype=np.int64)
    entries = [
        Entry.of_floats("vectors", vectors),
        Entry("ends", "I64", ends.shape, lambda: [ends.view(np.uint8)]),
        Entry("passages", "U8", (int(ends[-1]),), lambda: (np.frombuffer(item, np.uint8) for item in raw)),
    ]
    temporary = target.with_name(f"{target.name}.tmp-{secrets.token_hex(4)}")
    try:
        write_safetensors(temporary, entries, {"lepton_index": VERSION, "model": name})
        os.replace(temporary, target)
    except OSError as error:
        raise MachineError(f"{target}: cannot be written ({error}); free some space, or write elsewhere") from error
    finally:
        temporary.unlink(missing_ok=True)
    return len(raw)


def _largest(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """The places of so many largest scores, falling, equal ones in their order; sorting all takes far longer."""
    places = np.arange(len(scores))
    if count < len(scores):
        reached = np.flatnonzero(scores >= np.partition(scores, -count)[-count])
        places = reached if len(reached) >= count else places  # fewer where a score is NaN
    return places[np.argsort(-scores[places], kind="stable")[:count]]


class Index:
    """An open index.  model: the name of the one that made it.  Use it in a `with` statement."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises CheckpointError where the file is missing, damaged, or no index."""
        self.path = Path(path)
        if not self.path.is_file():
            raise CheckpointError(f"{self.path}: no such file; expected an index; make one with lepton search --build")
        try:
            self._file = SafetensorsFile(self.path)
        except CheckpointError as error:
            raise CheckpointError(f"{error}: this is no index; make one with lepton search --build") from error
        try:
            self._read()
        except BaseException:
            self._file.close()
            raise

    def _read(self) -> None:
        infos = self._file.tensors
        if self._file.metadata.get("lepton_index") != VERSION or infos.keys() != {"vectors", "ends", "passages"}:
            raise CheckpointError(f"{self.path}: is no index of version {VERSION}; make one with lepton search --build")
        self.model = str(self._file.metadata.get("model", ""))
        kinds = {name: info.dtype for name, info in infos.items()}
        shape, (count, *_) = infos["vectors"].shape, (*infos["ends"].shape, 0)
        kinds |= {f"{name}'s dimensions": str(len(info.shape)) for name, info in infos.items()}
        if kinds != KINDS or shape[0] != count or 0 in shape:
            raise CheckpointError(f"{self.path}: its tensors do not fit each other; build the index again")
        self._vectors: NDArray[np.float32] = self._file.bytes("vectors").view("<f4").reshape(shape)
        self._ends = self._file.bytes("ends").view("<i8")
        self._passages = self._file.bytes("passages")
        if (np.diff(self._ends, prepend=0) < 0).any() or self._ends[-1] != len(self._passages):
            raise CheckpointError(f"{self.path}: the ends of its passages are wrong; build the index again")

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return len(self._vectors[0])

    def __len__(self) -> int:
        return len(self._vectors)

    def passage(self, i: int) -> Passage:
        """One of the passages.  Raises CheckpointError where it is damaged."""
        start = int(self._ends[i - 1]) if i else 0
        return parse_object(self._passages[start : int(self._ends[i])].tobytes(), self.path, CheckpointError)

    def search(self, queries: NDArray[np.float32], top_k: int = 5) -> list[list[Passage]]:
        """For each of the queries float32 [m, d], the passages with the largest cosines, with their 'score'.

        Every vector is looked at: the result is exact.  Raises RequestError for queries of another width.
        """
        top_k = whole("top_k", top_k, 1)
        wanted = unit(np.atleast_2d(np.asarray(queries, np.float32)))
        if wanted.ndim != 2 or wanted.shape[1] != self.width:
            raise RequestError(
                f"the queries have {reprlib.repr(wanted.shape[-1])} numbers each, and the index {self.width}; search "
                "with the model that made it"
            )
        scores = np.empty((len(wanted), 0), np.float32)
        ids = np.empty((len(wanted), 0), np.int64)
        for start in range(0, len(self), BLOCK):
            block = self._vectors[start : start + BLOCK]
            here = np.broadcast_to(np.arange(start, start + len(block)), (len(wanted), len(block)))
            scores, ids = np.hstack([scores, wanted @ block.T]), np.hstack([ids, here])
            best = np.stack([_largest(row, top_k) for row in scores])
            scores, ids = np.take_along_axis(scores, best, 1), np.take_along_axis(ids, best, 1)
        return [
            [{"score": float(score), **self.passage(int(i))} for score, i in zip(row, places, strict=True)]
            for row, places in zip(scores, ids, strict=True)
        ]

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
