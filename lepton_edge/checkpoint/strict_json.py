"""JSON from files that nobody vouches for: one object, no duplicate keys, finite numbers, bounded size and depth."""

import json
import math
import os
import reprlib
import stat
from pathlib import Path
from typing import Any

from lepton_edge.errors import ModelError

__all__ = ["brief", "parse_object", "read_bytes", "read_object"]

MAX_FILE_BYTES = 16 << 20
MAX_DEPTH = 64

_REPR = reprlib.Repr()
_REPR.maxstring = 120


def brief(value: object) -> str:
    """repr(value), cut to a length that fits an error message."""
    return _REPR.repr(value)


def read_object(path: Path, error: type[ModelError], limit: int = MAX_FILE_BYTES) -> dict[str, Any]:
    """The JSON object that the file holds; `error`, naming the file, when it is not exactly that."""
    return parse_object(read_bytes(path, error, limit), path, error)


def read_bytes(path: Path, error: type[ModelError], limit: int = MAX_FILE_BYTES) -> bytes:
    """What a JSON file holds, at most `limit` bytes; `error`, naming the file, where it cannot be read or has more."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise error(f"{path}: is not a file; expected a JSON object in a regular file")
        with open(path, "rb") as file:
            raw = file.read(limit + 1)
    except FileNotFoundError:
        raise error(f"{path}: is missing; expected a Hugging Face model folder; download the folder again") from None
    except (OSError, ValueError) as cause:
        raise error(f"{path}: cannot be read ({cause}); check the path and its permissions") from cause
    if len(raw) > limit:
        raise error(f"{path}: is larger than {limit >> 20} MiB; expected a JSON object of a sensible size")
    return raw


def parse_object(raw: bytes, path: Path, error: type[ModelError], what: str = "JSON") -> dict[str, Any]:
    """The JSON object in `raw`; `error`, naming `path` and calling the bytes `what`, when it is not exactly that."""
    try:
        value = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_constant,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as cause:
        reason = "nested too deeply" if isinstance(cause, RecursionError) else str(cause)
        raise error(f"{path}: invalid {what} ({reason}); download the file again") from cause
    if not isinstance(value, dict):
        raise error(f"{path}: invalid {what} (a {type(value).__name__}); expected an object {{...}}")
    if _deeper_than(value, MAX_DEPTH):
        raise error(f"{path}: invalid {what} (nested more than {MAX_DEPTH} deep); download the file again")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {brief(twice)} appears twice")
    return made


def _constant(text: str) -> float:
    """Infinity, which transformers writes for a limit that is none, for a reader to check; no other."""
    if text == "Infinity":
        return math.inf
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:80]} is too large")
    return value


def _deeper_than(value: Any, limit: int) -> bool:
    """Whether containers are nested more than `limit` deep; level by level, so that no recursion can overflow."""
    level = [value]
    for _ in range(limit):
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return False
    return True
