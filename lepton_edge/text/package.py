"""The border to the `tokenizers` package: what its Rust code raises becomes our error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lepton_edge.errors import RequestError, TokenizerError

MAX_FILE_BYTES = 64 << 20


@contextmanager
def package_errors(path: Path) -> Iterator[None]:
    """Turn what the Rust code raises, panics included (they are no Exception), into a TokenizerError about `path`."""
    try:
        yield
    except (TokenizerError, RequestError, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:
        reason = " ".join(str(error).split())[:300]
        raise TokenizerError(
            f"{path}: the tokenizers package cannot use it ({reason}); expected a {path.name} that "
            "it reads; copy the file again, or update the package"
        ) from error


def read_bytes(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        TokenizerError: it cannot be read, or is larger than 64 MiB.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{path}: cannot be read ({error}); check the path and its permissions") from error
    if len(raw) > MAX_FILE_BYTES:
        raise TokenizerError(f"{path}: is larger than {MAX_FILE_BYTES >> 20} MiB; expected a tokenizer's file")
    return raw


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, without their ends.

    Raises:
        TokenizerError: it cannot be read, or is not UTF-8.
    """
    try:
        text = read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(
            f"{path}: byte {error.start} is not UTF-8 ({error.reason}); expected UTF-8 text; copy the file again"
        ) from None
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines
