"""A model and an adapter in, a folder of the model as the adapter changes it out."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..checkpoint.folder import check_target, copy_files, new_folder
from ..checkpoint.safetensors import Entry, write_safetensors
from ..checkpoint.store import INDEX, SINGLE, Checkpoint, Weight
from ..errors import CheckpointError, RequestError
from ..models.registry import spec_from_config, spec_of
from ..models.spec import ModelSpec
from ..quant.formats import get_format
from .delta import Adapter, Floats
from .read import read_adapter

__all__ = ["Progress", "merge_folder"]

Progress = Callable[[int, int, str], None]  # bytes done, bytes in all, tensor at work
COPY_CHUNK = 16 << 20  # bytes
Chunks = Iterator[NDArray[np.uint8]]


def merge_folder(source: Path, adapter: Path, target: Path, progress: Progress | None = None) -> list[str]:
    """Writes `target`, a new model folder with the adapter in its weights, in the model's own dtypes and files.

    Returns the names of the tensors that are not the model's own any more. Works tensor by tensor, some rows at a time,
    in a folder beside `target` that is renamed when complete and removed when anything fails. RequestError for a target
    that cannot be, ModelError for folders that are wrong or packed, MachineError when the disk refuses.
    """
    check_target(target)
    with Checkpoint.open(source) as checkpoint:
        if checkpoint.is_packed:
            raise CheckpointError(
                f"{checkpoint.folder}: is packed; expected weights in f32, f16 or bf16; merge into the folder that it "
                "was made from and quantize the result, or run the adapter beside the packed weights (--adapter)"
            )
        spec = spec_of(checkpoint)
        names = spec_from_config(checkpoint.config, str(checkpoint.folder / "config.json")).names
        run = _Merge(checkpoint, spec, read_adapter(adapter, spec, names), progress)
        with new_folder(target) as temporary:
            run.write(temporary)
            copy_files(checkpoint.folder, temporary)
    return sorted(run.changed)


class _Merge:
    """Writes the files of a merged model.

    changed: the names of the tensors that are not the model's own any more.  A table that the adapter unties from the
    other is one more tensor, in the last file.
    """

    def __init__(
        self, checkpoint: Checkpoint, spec: ModelSpec, adapter: Adapter, progress: Progress | None
    ) -> None:
        self.checkpoint, self.adapter, self.progress = checkpoint, adapter, progress
        names = adapter.spec.names
        self.deltas = {names.name(*part): delta for part, delta in adapter.deltas.items()}
        self.turned = {name for name, how in spec.stored().items() if how.transposed}
        self.table = names.name("embed")
        self.more = sorted(adapter.renamed.keys() - checkpoint.names)
        self.changed = {*adapter.tensors, *self.deltas, *self.more}
        self.total = sum(map(self._nbytes, [*checkpoint.names, *self.more]))
        self.done = 0

    def write(self, folder: Path) -> None:
        """The weights, their index where the model has one, and the config."""
        files = {file.path.name: list(file.tensors) for file in self.checkpoint.files}
        files[list(files)[-1]] += self.more
        for file, names in files.items():
            write_safetensors(folder / file, [self._entry(name) for name in names], {"format": "pt"})
        if list(files) != [SINGLE]:
            places = {name: file for file, names in files.items() for name in names}
            index = {"metadata": {"total_size": self.total}, "weight_map": places}
            (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        config = self.checkpoint.config
        if self.adapter.renamed:
            config = config | {"tie_word_embeddings": False}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def _source(self, name: str) -> str:
        """The model's name of a tensor."""
        return self.adapter.renamed.get(name, name)

    def _nbytes(self, name: str) -> int:
        info = self.checkpoint.info(self._source(name))
        return info.stop - info.start

    def _entry(self, name: str) -> Entry:
        info = self.checkpoint.info(self._source(name))
        write = self._merged if name in self.adapter.tensors or name in self.deltas else self._copied
        return Entry(name, info.dtype, info.shape, partial(self._counted, name, write))

    def _counted(self, name: str, write: Callable[[str], Chunks]) -> Chunks:
        """What `write` gives, while the files are as they were."""
        for data in write(name):
            self.checkpoint.check_unchanged()
            yield data
            self.done += data.size
            if self.progress is not None:
                self.progress(self.done, self.total, name)

    def _copied(self, name: str) -> Chunks:
        data = self.checkpoint.bytes(self._source(name))
        for start in range(0, data.size, COPY_CHUNK):
            yield data[start : start + COPY_CHUNK]

    def _merged(self, name: str) -> Chunks:
        """A tensor as the adapter has it, in the model's dtype."""
        format = get_format(self.checkpoint.format(self._source(name)))
        try:
            for values in self._values(name):
                yield format.pack(values)
        except RequestError as error:
            raise CheckpointError(f"{self.adapter.where}: {name} merged: {error}") from error

    def _values(self, name: str) -> Iterator[Floats]:
        """A tensor as the adapter has it, float32 [n, K], as the model's file lays it."""
        source, delta = self._source(name), self.deltas.get(name)
        info, turned = self.checkpoint.info(source), source in self.turned
        if name in self.adapter.tensors:
            values = self.adapter.tensors[name].to_f32()
            values = np.ascontiguousarray(values.T if turned else values)
            weight = Weight(name, "f32", info.shape, values.reshape(-1).view(np.uint8))
        else:
            weight = Weight(source, self.checkpoint.format(source), info.shape, self.checkpoint.bytes(source))
        if delta is None:
            yield weight.to_f32().reshape(-1, info.shape[-1])
            return
        turned = turned or name == self.table
        yield from delta.changed_rows(weight, delta.factors(weight, turned), turned)
