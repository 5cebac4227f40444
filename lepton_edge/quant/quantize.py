"""A Hugging Face folder in, a folder of the same model in packed weights out."""

import json
import math
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lepton_edge.checkpoint.folder import check_target, copy_files, new_folder
from lepton_edge.checkpoint.packed import PackedTensor, packed_metadata
from lepton_edge.checkpoint.safetensors import DTYPE_BYTES, Entry, write_safetensors
from lepton_edge.checkpoint.store import FORMAT_OF_DTYPE, SINGLE, Checkpoint
from lepton_edge.checkpoint.stored import Stored
from lepton_edge.errors import CheckpointError, RequestError
from lepton_edge.quant.formats import FORMATS, MXFP4, Format, get_format
from lepton_edge.quant.pack import map_rows
from lepton_edge.quant.report import Report, Row

__all__ = ["Progress", "quantize_folder"]

Progress = Callable[[int, int, str], None]  # bytes of the source done, bytes in all, tensor at work

COPY_CHUNK = 16 << 20  # bytes


def quantize_folder(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    format: str,
    keep: Sequence[str] = (),
    progress: Progress | None = None,
    matrices: Collection[str] | None = None,
    stored: Mapping[str, Stored] | None = None,
) -> Report:
    """Writes `target`, a new model folder whose matrices are in `format`; all else is copied as it is.

    matrices: the names of those that may be packed; None for every tensor of two dimensions.  stored: the tensors that
    lie in another order than ours; packed they lie in ours.  Those that are MXFP4 stay so, unless a rule names them.

    keep: 'REGEX=FORMAT' rules; the first whose regex is found in a matrix's name gives its format instead. Works shard
    by shard and chunk by chunk in a folder beside `target` that is renamed when complete and removed when anything
    fails. RequestError for an argument, ModelError for a source that is wrong or packed already, MachineError when
    the disk refuses.
    """
    started = time.perf_counter()
    get_format(format)
    rules = [_rule(text) for text in keep]
    target = Path(target)
    check_target(target)
    with Checkpoint.open(source) as checkpoint:
        if checkpoint.is_packed:
            raise CheckpointError(
                f"{checkpoint.folder}: is packed already; expected weights in f32, f16 or bf16; "
                "quantize the folder that it was made from"
            )
        stored = stored or {}
        checkpoint.arrange({name: how for name, how in stored.items() if how.mxfp4})
        formats = _formats(checkpoint, format, rules, matrices)
        checkpoint.arrange({name: how for name, how in stored.items() if name in formats and formats[name].packed})
        run = _Run(checkpoint, formats, progress)
        with new_folder(target) as temporary:
            write_safetensors(temporary / SINGLE, run.entries(), run.metadata())
            _write_config(checkpoint, formats, format, temporary)
            copy_files(checkpoint.folder, temporary)
    return Report(tuple(run.rows), run.total, time.perf_counter() - started)


def _rule(text: str) -> tuple[str, re.Pattern[str], str]:
    """'REGEX=FORMAT' -> (text, regex, format); the last '=' divides them."""
    regex, equals, format = text.rpartition("=")
    if not equals or not regex:
        raise RequestError(f"--keep {text!r}: expected REGEX=FORMAT, such as 'lm_head=q8'")
    if format not in FORMATS:
        raise RequestError(f"--keep {text!r}: no weight format {format!r}; expected one of {', '.join(FORMATS)}")
    try:
        return text, re.compile(regex), format
    except (re.error, RecursionError, OverflowError) as cause:
        raise RequestError(f"--keep {text!r}: invalid regular expression ({cause}); see Python's re module") from cause


def _formats(
    checkpoint: Checkpoint,
    format: str,
    rules: list[tuple[str, re.Pattern[str], str]],
    wanted: Collection[str] | None,
) -> dict[str, Format]:
    """The format of each matrix of weights, by name; RequestError for a rule that matches none of them."""
    matrices = [
        name
        for name in sorted(checkpoint.names if wanted is None else checkpoint.names.intersection(wanted))
        if (wanted is not None or len(checkpoint.shape(name)) == 2)
        and 0 not in checkpoint.shape(name)
        and (checkpoint.is_mxfp4(name) or checkpoint.info(name).dtype in FORMAT_OF_DTYPE)
    ]
    for text, regex, _ in rules:
        if not any(regex.search(name) for name in matrices):
            raise RequestError(
                f"--keep {text!r}: matches none of the {len(matrices)} matrices; see `lepton inspect --tensors`"
            )
    chosen = {}
    for name in matrices:
        others = MXFP4.name if checkpoint.is_mxfp4(name) else format
        chosen[name] = get_format(next((f for _, regex, f in rules if regex.search(name)), others))
        if checkpoint.is_mxfp4(name) and not chosen[name].packed:
            raise RequestError(
                f"--keep: {chosen[name].name} for {name}, which is MXFP4; expected a packed format, or none to keep it"
            )
    return chosen


class _Run:
    """Converts the tensors of one folder. total: bytes of the source; rows: what is written so far."""

    def __init__(self, checkpoint: Checkpoint, formats: dict[str, Format], progress: Progress | None) -> None:
        self.checkpoint = checkpoint
        self.formats = {name: f for name, f in formats.items() if f.name != checkpoint.format(name)}
        self.packed = {
            name: PackedTensor(f.name, checkpoint.shape(name)) for name, f in formats.items() if f.packed
        }
        self.progress = progress
        self.total = sum(map(checkpoint.stored_bytes, checkpoint.names))
        self.done = 0
        self.rows: list[Row] = []

    def metadata(self) -> dict[str, str]:
        return packed_metadata(self.packed) if self.packed else {"format": "pt"}

    def entries(self) -> list[Entry]:
        """Packed tensors first, so that they start at multiples of 64, then wide dtypes before narrow ones."""
        entries = []
        for name in sorted(self.checkpoint.names):
            if name in self.packed:
                write = self._converted if name in self.formats else self._repacked
                entries.append(Entry(name, "U8", (self.packed[name].nbytes,), partial(write, name)))
            elif name in self.formats:
                shape = self.checkpoint.shape(name)
                entries.append(Entry(name, self.formats[name].dtype, shape, partial(self._converted, name)))
            else:
                info = self.checkpoint.info(name)
                entries.append(Entry(name, info.dtype, info.shape, partial(self._copied, name)))
        return sorted(entries, key=lambda entry: (entry.name not in self.packed, -DTYPE_BYTES[entry.dtype]))

    def _copied(self, name: str) -> Iterator[NDArray[np.uint8]]:
        data = self.checkpoint.bytes(name)
        for start in range(0, data.size, COPY_CHUNK):
            self.checkpoint.check_unchanged()
            yield data[start : start + COPY_CHUNK]
            self._advance(min(COPY_CHUNK, data.size - start), name)
        info = self.checkpoint.info(name)
        self.rows.append(Row(name, FORMAT_OF_DTYPE.get(info.dtype, info.dtype), info.shape, data.size))

    def _converted(self, name: str) -> Iterator[NDArray[np.uint8]]:
        weight, target = self.checkpoint.weight(name), self.formats[name]
        written, error, norm = 0, 0.0, 0.0
        path = str(self.checkpoint.path(name))
        for count, data, chunk_error, chunk_norm in map_rows(
            weight, target.block_rows, partial(_measure, target), path
        ):
            self.checkpoint.check_unchanged()
            yield data
            written, error, norm = written + data.size, error + chunk_error, norm + chunk_norm
            self._advance(count * self.checkpoint.stored_bytes(name) // math.prod(weight.shape), name)
        self.rows.append(Row(name, target.name, weight.shape, written, error, norm))

    def _repacked(self, name: str) -> Iterator[NDArray[np.uint8]]:
        """An MXFP4 matrix in our order, without loss."""
        shape, written = self.checkpoint.shape(name), 0
        for data in self.checkpoint.packed_parts(name):
            self.checkpoint.check_unchanged()
            yield data
            written += data.size
            self._advance(self.checkpoint.stored_bytes(name) // shape[0], name)
        self.rows.append(Row(name, MXFP4.name, shape, written))

    def _advance(self, nbytes: int, name: str) -> None:
        self.done += nbytes
        if self.progress is not None:
            self.progress(self.done, self.total, name)


def _measure(target: Format, w: NDArray[np.float32]) -> tuple[int, NDArray[np.uint8], float, float]:
    """How many weights, their packed bytes, the sum of squares of what packing changed, and that of the weights."""
    data = target.pack(w)
    change = target.unpack(data, *w.shape)
    change -= w
    return w.size, data, float(np.vdot(change, change)), float(np.vdot(w, w))


def _write_config(checkpoint: Checkpoint, formats: dict[str, Format], format: str, folder: Path) -> None:
    config = {key: value for key, value in checkpoint.config.items() if key != "lepton"}
    if any(map(checkpoint.is_mxfp4, formats)):
        del config["quantization_config"]  # it says how MXFP4 was stored
    if any(f.packed for f in formats.values()):
        config["lepton"] = {"format": format}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
