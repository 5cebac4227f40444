"""A conversation in the terminal: its messages, and the file that /save writes and /load reads."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from lepton_edge.errors import RequestError

MOST_BYTES = 64 << 20
MARK, VERSION = "lepton_chat", 1


class Session:
    """The messages of a conversation; a system message, if any, is the first."""

    def __init__(self, system: str | None = None) -> None:
        self.messages: list[dict[str, Any]] = []
        self.system = system

    @property
    def system(self) -> str | None:
        """The system message's text."""
        first = self.messages[0] if self.messages else {}
        return first["content"] if first.get("role") == "system" else None

    @system.setter
    def system(self, text: str | None) -> None:
        rest = self.messages[1:] if self.system is not None else self.messages
        self.messages = [{"role": "system", "content": text}, *rest] if text else rest

    def clear(self) -> None:
        """Forget all but the system message."""
        self.messages = self.messages[: self.system is not None]

    def save(self, path: Path) -> None:
        """Write the conversation as JSON; a file of that name is replaced at once or not at all.

        Raises:
            RequestError: it cannot be written.
        """
        text = json.dumps({MARK: VERSION, "messages": self.messages}, ensure_ascii=False, indent=1) + "\n"
        temporary = None
        try:
            with tempfile.NamedTemporaryFile("wb", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
                temporary = file.name
                file.write(text.encode("utf-8", "backslashreplace"))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            if temporary is not None and os.path.exists(temporary):
                os.unlink(temporary)
            raise RequestError(f"{path}: cannot be written ({error.strerror}); name another file") from None

    def load(self, path: Path) -> None:
        """Go on with a saved conversation; this one is lost.

        Raises:
            RequestError: the file is not one that `save` wrote; the conversation is as it was.
        """
        from lepton_edge.text.chat import read_messages

        value = _read(path)
        messages = value.get("messages")
        if value.get(MARK) != VERSION or not isinstance(messages, list):
            raise RequestError(f'{path}: has no "{MARK}": {VERSION} with messages; expected a file that /save wrote')
        try:
            self.messages = read_messages(messages) if messages else []
        except RequestError as error:
            raise RequestError(f"{path}: is no conversation: {error}") from None


def _read(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a sensible size."""
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror}); name a file that /save wrote") from None
    try:
        value = json.loads(data.decode("utf-8")) if len(data) <= MOST_BYTES else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise RequestError(f"{path}: is not a JSON object; expected a file that /save wrote")
    return value
