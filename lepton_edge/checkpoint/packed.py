"""What a packed file says about its packed tensors, in the `__metadata__` of an ordinary safetensors header.

A packed matrix is stored under its own name as U8 [nbytes]. `lepton.version` is a whole number, and `lepton.packed` a
JSON object {name: {"format": "q4", "shape": [N, K]}}.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from lepton_edge.checkpoint.safetensors import MAX_ELEMENTS, SafetensorsFile
from lepton_edge.checkpoint.strict_json import brief, parse_object
from lepton_edge.errors import CheckpointError
from lepton_edge.quant.formats import FORMATS

__all__ = ["VERSION", "PackedTensor", "packed_metadata", "read_packed"]

VERSION = 2  # 1 had the scales of a row block behind all of its codes
VERSION_KEY = "lepton.version"
PACKED_KEY = "lepton.packed"


@dataclass(frozen=True)
class PackedTensor:
    """The format of a packed matrix and its shape (N, K) before packing; (…, N, K) for matrices that lie one behind the
    other and are packed as one."""

    format: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return FORMATS[self.format].nbytes(math.prod(self.shape[:-1]), self.shape[-1])


def packed_metadata(tensors: Mapping[str, PackedTensor]) -> dict[str, str]:
    """The `__metadata__` of a file that holds these packed tensors. "format": "pt" is what transformers asks for."""
    entries = {name: {"format": packed.format, "shape": list(packed.shape)} for name, packed in tensors.items()}
    text = json.dumps(entries, separators=(",", ":"))
    return {"format": "pt", VERSION_KEY: str(VERSION), PACKED_KEY: text}


def read_packed(file: SafetensorsFile) -> dict[str, PackedTensor]:
    """The packed tensors of a file by name, checked against their bytes; empty for an ordinary file."""
    version, text = file.metadata.get(VERSION_KEY), file.metadata.get(PACKED_KEY)
    if version is None and text is None:
        return {}
    if version is None or text is None or not (version.isascii() and version.isdigit()) or len(version) > 9:
        raise CheckpointError(
            f"{file.path}: {VERSION_KEY} is {brief(version)}; expected a whole number, together with "
            f"{PACKED_KEY}; quantize the model again"
        )
    if int(version) > VERSION:
        raise CheckpointError(
            f"{file.path}: written by a newer lepton (version {version} of the packed format; this one reads "
            f"{VERSION}); update lepton-edge, or quantize the model again"
        )
    if int(version) < VERSION:
        raise CheckpointError(
            f"{file.path}: written by an older lepton (version {version} of the packed format; this one reads "
            f"{VERSION}); quantize the model again"
        )
    entries = parse_object(text.encode("utf-8", "surrogatepass"), file.path, CheckpointError, PACKED_KEY)
    return {name: _packed_tensor(file, name, entry) for name, entry in entries.items()}


def _packed_tensor(file: SafetensorsFile, name: str, entry: object) -> PackedTensor:
    """One entry of `lepton.packed`, checked against the tensor it speaks of."""
    bad = f"{file.path}: packed tensor {brief(name)}: "
    if not isinstance(entry, dict) or entry.keys() != {"format", "shape"}:
        raise CheckpointError(f"{bad}invalid metadata; expected an object with format and shape")
    format, shape = entry["format"], entry["shape"]
    known = [f.name for f in FORMATS.values() if f.packed]
    if not isinstance(format, str) or format not in known:
        raise CheckpointError(
            f"{bad}unknown format {brief(format)}; expected one of {', '.join(known)}; update lepton-edge"
        )
    if (
        not isinstance(shape, list)
        or len(shape) not in (2, 3)
        or not all(type(n) is int and 0 < n < 2**31 for n in shape)
        or math.prod(shape[:-1]) >= 2**31
    ):
        raise CheckpointError(f"{bad}shape {brief(shape)}; expected two positive whole numbers [N, K], or three")
    info = file.tensors.get(name)
    packed = PackedTensor(format, tuple(shape))
    expected = packed.nbytes
    if info is None or info.dtype != "U8" or info.shape != (expected,) or expected > MAX_ELEMENTS:
        found = "nothing" if info is None else f"{info.dtype} {list(info.shape)}"
        raise CheckpointError(
            f"{bad}the file holds {found}; expected U8 [{expected}] for {format} of shape {shape}; "
            "quantize the model again"
        )
    return packed
