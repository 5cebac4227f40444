"""One safetensors file: a validated header over a memory map, read without copying; and writing one as a stream.

Format: https://github.com/huggingface/safetensors (8 bytes of header length, a JSON header, the tensors' bytes).
"""

import contextlib
import json
import math
import mmap
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lepton_edge.checkpoint.strict_json import brief, parse_object
from lepton_edge.errors import CheckpointError, RequestError

__all__ = ["DTYPE_BYTES", "Entry", "SafetensorsFile", "TensorInfo", "write_safetensors"]

DTYPE_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors library
MAX_ELEMENTS = 1 << 56  # of a tensor, zero dimensions left out: byte counts stay far below 2^63
MAX_DIMENSIONS = 16
DATA_ALIGNMENT = 64


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies: `dtype` by its safetensors name, `start` and `stop` in bytes from the file's beginning."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class SafetensorsFile:
    """An open, memory-mapped safetensors file whose header has been checked completely.

    tensors: TensorInfo by name, in the order of their bytes. metadata: the header's `__metadata__`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises CheckpointError, naming the file, unless every byte of it is accounted for by the header."""
        self.path = Path(path)
        self._file = _open(self.path)
        try:
            self._opened = os.fstat(self._file.fileno())
            self.tensors, self.metadata = _read_header(self._file, self.path, self._opened.st_size)
            self._map = mmap.mmap(self._file.fileno(), self._opened.st_size, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as cause:
            self._file.close()
            raise CheckpointError(f"{self.path}: cannot be read ({cause}); check the disk, or copy it again") from cause
        except BaseException:
            self._file.close()
            raise
        self._data: NDArray[np.uint8] | None = np.frombuffer(self._map, np.uint8)

    def __enter__(self) -> "SafetensorsFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def bytes(self, name: str) -> NDArray[np.uint8]:
        """The tensor's bytes: a read-only uint8 1-D view of the memory map. It stays valid after close()."""
        self.check_unchanged()
        if name not in self.tensors:
            raise CheckpointError(f"{self.path}: holds no tensor {name!r}; expected one of {len(self.tensors)} others")
        info = self.tensors[name]
        assert self._data is not None
        return self._data[info.start : info.stop]

    def check_unchanged(self) -> None:
        """CheckpointError when the file was cut, rewritten or deleted since it was opened; takes a microsecond.

        Reading a map beyond the end of a cut file kills the process, so this comes before each use of the weights.
        """
        if self._data is None:
            raise CheckpointError(f"{self.path}: was closed; open the model again")
        try:
            now = os.fstat(self._file.fileno())
        except OSError as cause:
            raise CheckpointError(f"{self.path}: is gone ({cause}); load the model again") from cause
        if now.st_size != self._opened.st_size:
            raise CheckpointError(
                f"{self.path}: has {now.st_size} bytes; expected {self._opened.st_size} as when it was opened; "
                "restore the file and load the model again"
            )
        if now.st_mtime_ns != self._opened.st_mtime_ns:
            raise CheckpointError(f"{self.path}: was written to while in use; load the model again")
        if now.st_nlink == 0 and self._opened.st_nlink > 0:
            raise CheckpointError(f"{self.path}: was deleted or replaced while in use; load the model again")

    def close(self) -> None:
        """Closes the file. The map itself lives until the last view of it is gone."""
        self._data = None
        self._file.close()
        with contextlib.suppress(BufferError):  # views are still held; the map goes with the last of them
            self._map.close()


def _open(path: Path) -> BinaryIO:
    """The file, opened for reading; CheckpointError unless it is a regular file that can be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
            raise CheckpointError(f"{path}: is not a file; expected a regular file in safetensors format")
        return open(path, "rb")
    except FileNotFoundError:
        raise CheckpointError(f"{path}: is missing; download the file again") from None
    except (OSError, ValueError) as cause:
        raise CheckpointError(f"{path}: cannot be opened ({cause}); check its permissions") from cause


def _read_header(file: BinaryIO, path: Path, size: int) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """The checked tensors, in file order, and the metadata, from a file of `size` bytes."""
    if size < 8:
        raise CheckpointError(f"{path}: has {size} bytes; expected at least 8 of a header; download the file again")
    length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER:
        raise CheckpointError(f"{path}: says its header has {length} bytes; expected at most {MAX_HEADER}")
    if length > size - 8:
        raise CheckpointError(f"{path}: is truncated in its header of {length} bytes; download the file again")
    raw = file.read(length)
    if not raw.startswith(b"{"):
        raise CheckpointError(f"{path}: is not a safetensors file; expected a header that begins with '{{'")
    header = parse_object(raw, path, CheckpointError, "safetensors header")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{path}: invalid safetensors header (__metadata__); expected strings by name")
    infos = [_tensor_info(name, entry, path, 8 + length) for name, entry in header.items()]
    infos.sort(key=lambda info: (info.start, info.stop))
    _check_coverage(infos, path, 8 + length, size)
    return {info.name: info for info in infos}, metadata


def _tensor_info(name: str, entry: object, path: Path, data_start: int) -> TensorInfo:
    """One entry of a header, checked by itself."""
    bad = f"{path}: tensor {brief(name)}: "
    if not name.isprintable():
        raise CheckpointError(f"{bad}invalid name; expected printable characters; download the file again")
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise CheckpointError(f"{bad}invalid header entry; expected an object with dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise CheckpointError(f"{bad}unknown dtype {brief(dtype)}; expected one of {', '.join(DTYPE_BYTES)}")
    if not _counts(shape) or len(shape) > MAX_DIMENSIONS:
        raise CheckpointError(
            f"{bad}shape {brief(shape)}; expected a list of at most {MAX_DIMENSIONS} whole numbers >= 0"
        )
    elements = 1
    for size in shape:
        elements *= max(size, 1)
        if elements > MAX_ELEMENTS:
            raise CheckpointError(f"{bad}shape {brief(shape)} is too large; expected at most 2^56 elements")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"{bad}data_offsets {brief(offsets)}; expected [start, stop] with start <= stop")
    nbytes = 0 if 0 in shape else elements * DTYPE_BYTES[dtype]
    if offsets[1] - offsets[0] != nbytes:
        raise CheckpointError(
            f"{bad}data_offsets {brief(offsets)} hold another number of bytes than {dtype} of shape "
            f"{brief(shape)}; expected {nbytes}; download the file again"
        )
    return TensorInfo(name, dtype, tuple(shape), data_start + offsets[0], data_start + offsets[1])


def _counts(value: object) -> bool:
    """Whether `value` is a list of whole numbers >= 0 (true and false are none)."""
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_coverage(infos: list[TensorInfo], path: Path, start: int, size: int) -> None:
    """CheckpointError unless the tensors, sorted by offset, fill the file from `start` to `size` one after another."""
    end = start
    for info in infos:
        if info.start != end:
            problem = "overlaps the tensor before it" if info.start < end else "leaves a hole before it"
            raise CheckpointError(
                f"{path}: tensor {brief(info.name)} {problem}; expected tensors without gaps; download the file again"
            )
        end = info.stop
    if end > size:
        raise CheckpointError(f"{path}: is truncated ({size} bytes); expected {end} bytes; download the file again")
    if end < size:
        raise CheckpointError(f"{path}: has {size - end} bytes after the last tensor; expected {end} bytes in all")


class Entry(NamedTuple):
    """A tensor to be written; `chunks` is called once, when its turn comes, and yields its bytes piece by piece."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunks: Callable[[], Iterable[NDArray[np.uint8]]]

    @classmethod
    def of_floats(cls, name: str, values: NDArray[np.float32]) -> "Entry":
        """An array as F32."""
        plain = np.ascontiguousarray(values, np.float32)
        return cls(name, "F32", values.shape, lambda: [plain.reshape(-1).view(np.uint8)])


def write_safetensors(
    path: str | os.PathLike[str], entries: Iterable[Entry], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes the tensors in the order given; the first one starts at a multiple of 64 bytes. Only one chunk is in
    memory at a time. Put wide dtypes first, or later tensors may be misaligned for their dtype.

    RequestError for a name used twice, an unknown dtype, or chunks that do not fill the shape. OSError as it comes.
    """
    entries = list(entries)
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for entry in entries:
        if entry.name in header or entry.name == "__metadata__":
            raise RequestError(f"{path}: the tensor {entry.name!r} is given twice, or has a reserved name")
        if entry.dtype not in DTYPE_BYTES:
            raise RequestError(f"{path}: tensor {entry.name!r}: unknown dtype {entry.dtype!r}")
        start, end = end, end + math.prod(entry.shape) * DTYPE_BYTES[entry.dtype]
        header[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [start, end]}
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-(8 + len(raw)) % DATA_ALIGNMENT)
    with open(path, "wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for entry in entries:
            start, end = header[entry.name]["data_offsets"]
            written = 0
            for chunk in entry.chunks():
                written += file.write(chunk.data)
            if written != end - start:
                raise RequestError(f"{path}: tensor {entry.name!r}: {written} bytes given; expected {end - start}")
        file.flush()
        os.fsync(file.fileno())
