"""A model folder: its config and its tensors, from one safetensors file or from shards with an index."""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_edge.checkpoint.packed import PackedTensor, read_packed
from lepton_edge.checkpoint.safetensors import MAX_HEADER, SafetensorsFile, TensorInfo
from lepton_edge.checkpoint.stored import BLOCKS, SCALES, Stored, in_turns
from lepton_edge.checkpoint.strict_json import brief, read_object
from lepton_edge.errors import CheckpointError, ConfigError, RequestError
from lepton_edge.quant.formats import FORMATS, GROUP, MXFP4, ROWS, get_format

__all__ = ["Checkpoint", "Weight"]

LISTED = 12  # tensors in a message; a model of experts has thousands
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ALIGNMENT = 64  # bytes; what a packed file guarantees as well
FORMAT_OF_DTYPE = {f.dtype: f.name for f in FORMATS.values() if not f.packed}


@dataclass(frozen=True, eq=False)
class Weight:
    """A tensor as it lies in memory. format: one of `quant.formats`. shape: before packing.

    data: its bytes, uint8 1-D: row-major numbers, or packed bytes as quant.formats defines them.
    """

    name: str
    format: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]

    def to_f32(self) -> NDArray[np.float32]:
        """A new float32 array of `shape`, whatever the format."""
        columns = self.shape[-1] if self.shape else 1
        rows = math.prod(self.shape[:-1])
        return get_format(self.format).unpack(self.data, rows, columns).reshape(self.shape)


class Checkpoint:
    """An open model folder. Everything is checked when it is opened; tensors are views of memory maps.

    folder. config: config.json. generation_config: {} when the folder has none. names: of all tensors. packed: those
    stored in a packed format of ours. files: the open safetensors files.
    """

    def __init__(
        self, folder: Path, config: dict[str, Any], generation_config: dict[str, Any], files: list[SafetensorsFile]
    ) -> None:
        self.folder = folder
        self.config = config
        self.generation_config = generation_config
        self.files = files
        self._file_of: dict[str, SafetensorsFile] = {}
        self.packed: dict[str, PackedTensor] = {}
        self._stored: Mapping[str, Stored] = {}
        for file in files:
            for name in file.tensors:
                if name in self._file_of:
                    raise CheckpointError(
                        f"{file.path}: holds tensor {name!r}, as {self._file_of[name].path.name} does; "
                        "expected it in one file only; download the folder again"
                    )
                self._file_of[name] = file
            self.packed.update(read_packed(file))
        self.names = frozenset(self._file_of)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> "Checkpoint":
        """Reads config.json, the index if there is one, and every file's header; no tensor is touched.

        Raises ConfigError for config.json and generation_config.json, CheckpointError for the rest.
        """
        folder = Path(folder)
        if not _is_dir(folder):
            raise CheckpointError(
                f"{folder}: is not a folder; expected a Hugging Face model folder with config.json and {SINGLE}"
            )
        config = read_object(folder / "config.json", ConfigError)
        generation = folder / "generation_config.json"
        generation_config = read_object(generation, ConfigError) if os.path.lexists(generation) else {}
        weight_map = _weight_map(folder)
        files: list[SafetensorsFile] = []
        try:
            for file_name in sorted(set(weight_map.values())) or [SINGLE]:
                files.append(SafetensorsFile(folder / file_name))
            checkpoint = cls(folder, config, generation_config, files)
            checkpoint._check_index(weight_map)
        except BaseException:
            for file in files:
                file.close()
            raise
        return checkpoint

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_packed(self) -> bool:
        """Whether any tensor is stored in a packed format."""
        return bool(self.packed)

    def info(self, name: str) -> TensorInfo:
        """The tensor as its file stores it: for a packed one, dtype U8 and its byte count as shape."""
        return self._file(name).tensors[name]

    def bytes(self, name: str) -> NDArray[np.uint8]:
        """The tensor's bytes as its file stores them: a read-only uint8 1-D view of the memory map."""
        return self._file(name).bytes(name)

    def path(self, name: str) -> Path:
        """The file that holds the tensor."""
        return self._file(name + BLOCKS if self.is_mxfp4(name) else name).path

    def arrange(self, stored: Mapping[str, Stored]) -> None:
        """Tensors that are stored in another order than ours: from now on `shape` and `weight` turn them round.

        Packed ones lie in our order already.  The two tensors of an MXFP4 matrix become one, whose format is mxfp4;
        CheckpointError for two that cannot be such.
        """
        self._stored = {name: how for name, how in stored.items() if name not in self.packed}
        pairs = {name for name, how in self._stored.items() if how.mxfp4 and self._file_of.keys() >= set(_pair(name))}
        for name in sorted(pairs):
            self._check_pair(name)
        self.names = frozenset(self._file_of.keys() - {part for name in pairs for part in _pair(name)} | pairs)

    def is_mxfp4(self, name: str) -> bool:
        """Whether a matrix is stored as blocks and scales, in the order of other tools."""
        return name in self.names and self._stored.get(name, Stored()).mxfp4

    def stored_bytes(self, name: str) -> int:
        """Bytes that a tensor takes in its file."""
        infos = map(self.info, _pair(name) if self.is_mxfp4(name) else (name,))
        return sum(info.stop - info.start for info in infos)

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape, before packing, in our order: of a matrix [..., outputs, inputs]."""
        if name in self.packed:
            return self.packed[name].shape
        if self.is_mxfp4(name):
            *rows, groups = self.info(name + SCALES).shape
            return (*rows, groups * GROUP)
        return self._stored.get(name, Stored()).shape(self.info(name).shape)

    def format(self, name: str) -> str:
        """The tensor's weight format; CheckpointError for a dtype that is none, such as I64."""
        if name in self.packed:
            return self.packed[name].format
        if self.is_mxfp4(name):
            return MXFP4.name
        info = self.info(name)
        if info.dtype not in FORMAT_OF_DTYPE:
            raise CheckpointError(
                f"{self.path(name)}: tensor {name!r} has dtype {info.dtype}; expected one of "
                f"{', '.join(FORMAT_OF_DTYPE)}; convert the checkpoint"
            )
        return FORMAT_OF_DTYPE[info.dtype]

    def weight(self, name: str) -> Weight:
        """The tensor; CheckpointError when it is missing, of another dtype, or its file changed.

        Without copying, but for one that is stored in another order.
        """
        if self.is_mxfp4(name):
            return self._packed_mxfp4(name)
        data = self.bytes(name)
        if name in self._stored:
            data = self._stored[name].arrange(data, self.info(name).shape)
        return Weight(name, self.format(name), self.shape(name), data)

    def packed_parts(self, name: str) -> Iterator[NDArray[np.uint8]]:
        """The packed bytes of an MXFP4 matrix [count, N, K], one of the `count` after the other.

        CheckpointError for scales that are NaN or too large, and as `weight`.
        """
        blocks, scales = (self.bytes(part) for part in _pair(name))
        shape = self.info(name + SCALES).shape
        turns = self._stored[name].turns
        for block, scale in zip(blocks.reshape(*shape, 16), scales.reshape(shape), strict=True):
            if turns:
                block, scale = in_turns(block, -3), in_turns(scale, -2)
            try:
                yield MXFP4.from_checkpoint(block, scale)
            except RequestError as error:
                raise CheckpointError(f"{self.path(name)}: tensor {name + SCALES!r}: {error}") from error

    def require(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """One CheckpointError that lists the tensors that are missing, of another shape, or of no weight format."""
        problems = []
        missing = [part for name in expected if name not in self.names for part in self._parts(name)]
        if missing:
            problems.append(f"missing: {_few(missing)}")
        present = [name for name in expected if name in self.names]
        wrong = [name for name in present if self.shape(name) != tuple(expected[name])]
        if wrong:
            each = [f"{name} is {list(self.shape(name))}, config.json says {list(expected[name])}" for name in wrong]
            problems.append(f"of another shape: {_few(each)}")
        odd = [
            name for name in present
            if name not in self.packed and not self.is_mxfp4(name) and self.info(name).dtype not in FORMAT_OF_DTYPE
        ]  # fmt: skip
        if odd:
            each = [f"{name} is {self.info(name).dtype}" for name in odd]
            problems.append(f"of a dtype that is none of {', '.join(FORMAT_OF_DTYPE)}: {_few(each)}")
        if problems:
            raise CheckpointError(
                f"{self.folder}: the tensors are not those that config.json asks for; {'; '.join(problems)}; "
                "check that config.json and the weights belong together"
            )

    def _parts(self, name: str) -> tuple[str, ...]:
        """The names under which a tensor should be stored."""
        return _pair(name) if self._stored.get(name, Stored()).mxfp4 else (name,)

    def _check_pair(self, name: str) -> None:
        """The tensors of an MXFP4 matrix have the shapes and the dtype of such."""
        blocks, scales = map(self.info, _pair(name))
        sound = blocks.dtype == scales.dtype == "U8" and len(scales.shape) == 3 and blocks.shape == (*scales.shape, 16)
        if not sound or scales.shape[1] % ROWS:
            raise CheckpointError(
                f"{self._file(blocks.name).path}: {blocks.name} is {blocks.dtype} {list(blocks.shape)} and "
                f"{scales.name} {scales.dtype} {list(scales.shape)}; expected MXFP4, U8 [count, rows, groups, 16] and "
                f"U8 [count, rows, groups] with a multiple of {ROWS} rows; download the folder again"
            )

    def _packed_mxfp4(self, name: str) -> Weight:
        """An MXFP4 matrix, packed into memory of its own."""
        shape = self.shape(name)
        memory, end = np.empty(MXFP4.nbytes(math.prod(shape[:-1]), shape[-1]) + ALIGNMENT, np.uint8), 0
        data = memory[-memory.ctypes.data % ALIGNMENT :][: memory.size - ALIGNMENT]
        for part in self.packed_parts(name):
            data[end : end + part.size] = part
            end += part.size
        return Weight(name, MXFP4.name, shape, data)

    def check_unchanged(self) -> None:
        """CheckpointError when a file was cut, rewritten or deleted since it was opened; a microsecond a file."""
        for file in self.files:
            file.check_unchanged()

    def close(self) -> None:
        """Closes the files; views handed out before stay valid."""
        for file in self.files:
            file.close()

    def _file(self, name: str) -> SafetensorsFile:
        if name not in self._file_of:
            raise CheckpointError(f"{self.folder}: no tensor {name!r} in its safetensors files")
        return self._file_of[name]

    def _check_index(self, weight_map: Mapping[str, str]) -> None:
        absent = [name for name, file_name in weight_map.items() if not self._holds(name, file_name)]
        if absent:
            raise CheckpointError(
                f"{self.folder / INDEX}: lists tensors that the files it names do not hold; "
                f"download the folder again; missing: {', '.join(map(brief, absent))}"
            )

    def _holds(self, name: str, file_name: str) -> bool:
        return name in self._file_of and self._file_of[name].path.name == file_name


def _pair(name: str) -> tuple[str, str]:
    """The names of the two tensors of an MXFP4 matrix."""
    return name + BLOCKS, name + SCALES


def _is_dir(folder: Path) -> bool:
    try:
        return folder.is_dir()
    except (OSError, ValueError):
        return False


def _weight_map(folder: Path) -> dict[str, str]:
    """The index's map from tensor to shard; empty when the folder has a single file."""
    path = folder / INDEX
    if os.path.lexists(folder / SINGLE):
        return {}
    if not os.path.lexists(path):
        raise CheckpointError(
            f"{folder}: holds neither {SINGLE} nor {INDEX}; expected weights in safetensors format; "
            "download them, or save the model again with safe_serialization=True"
        )
    weight_map = read_object(path, CheckpointError, MAX_HEADER).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path}: has no weight_map; expected an object of file names by tensor name")
    for file_name in weight_map.values():
        if not isinstance(file_name, str) or not _is_shard_name(file_name):
            raise CheckpointError(
                f"{path}: weight_map names {brief(file_name)}; expected the name of a .safetensors file in that folder"
            )
    return weight_map


def _is_shard_name(name: str) -> bool:
    """Whether it names a file right in the folder; a link there may point elsewhere, as in the Hugging Face cache."""
    return name.endswith(".safetensors") and name.isprintable() and not set(name) & set("/\\:") and len(name) < 256


def _few(items: list[str]) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(items) - LISTED} more" if len(items) > LISTED else ""
    return ", ".join(items[:LISTED]) + more
