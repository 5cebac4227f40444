"""What the verbs of tasks share: texts from arguments, files or stdin; answers as JSON lines, CSV or a table."""

import argparse
import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from lepton_edge.cli.options import add_engine_options
from lepton_edge.cli.output import CONTROLS, Progress, shorten, table
from lepton_edge.errors import RequestError

if TYPE_CHECKING:
    from lepton_edge.api import Model

OUTPUTS = ("json", "csv", "table")
PART = 256  # texts whose answers are written together
CELL = 40  # characters of a text in a table

Row = Mapping[str, Any]
Done = Callable[[int, int], None]


def add_task_options(parser: argparse.ArgumentParser, model: str, required: bool = True, alone: bool = False) -> None:
    """-m, -o and the engine's options.  model: what the help says of -m.

    alone: whether the answer to one text is no table, unless it is asked for: then `output` is None.
    """
    parser.add_argument("-m", "--model", metavar="MODEL", required=required, help=model)
    default = "json: one object a line; default: table" + (", or of one text the answer alone" if alone else "")
    parser.add_argument("-o", "--output", choices=OUTPUTS, default=None if alone else "table", help=default)
    add_engine_options(parser)


def add_text_options(parser: argparse.ArgumentParser, name: str = "TEXT") -> None:
    """Texts, and -f."""
    parser.add_argument("texts", nargs="*", metavar=name, help=f"a {name.lower()}; without any, lines of stdin")
    parser.add_argument(
        "-f", "--file", action="append", default=[], metavar="FILE",
        help="a text a line; '-' is stdin; of a .jsonl file, strings or objects with a 'text'",
    )  # fmt: skip


def load_model(arguments: argparse.Namespace, name: str | None = None) -> "Model":
    """The model that -m names, or another."""
    import lepton_edge

    options = {key: getattr(arguments, key) for key in ("format", "kv_dtype", "threads", "isa", "device")}
    return lepton_edge.load(arguments.model if name is None else name, **options)


def read_texts(arguments: argparse.Namespace) -> list[str]:
    """The texts that were given; blank lines of files are left out.  RequestError for a file that cannot be read.

    Bytes that are not UTF-8 become lone surrogates, which tasks refuse row by row.
    """
    texts = [*arguments.texts]
    for name in arguments.file or ([] if texts else ["-"]):
        texts += [line for line in _lines(name) if not isinstance(line, str) or line.strip()]
    return texts


def read_whole(name: str) -> str:
    """A whole file, or stdin for '-'."""
    with _open(name) as file:
        return file.read()


def _lines(name: str) -> Iterator[Any]:
    with _open(name) as file:
        for number, line in enumerate(file, 1):
            line = line.rstrip("\n")
            yield _text_of(line, f"{name}: line {number}") if name.endswith(".jsonl") and line.strip() else line


def _text_of(line: str, where: str) -> Any:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{where}: is not JSON ({error}); expected a string, or an object with a 'text'") from None
    return value["text"] if isinstance(value, dict) and "text" in value else value


def _open(name: str) -> TextIO:
    if name == "-":
        return io.StringIO(sys.stdin.buffer.read().decode("utf-8", "surrogateescape"), newline=None)
    return open(name, encoding="utf-8", errors="surrogateescape")


def answer_texts(
    texts: Sequence[Any], ask: Callable[[list[Any], Done], Iterable[Any]], size: int = PART
) -> Iterator[tuple[Any, Any]]:
    """Each text with its answer, `size` at a time.  ask: answers several, and tells how many are done."""
    progress = Progress()
    try:
        for start in range(0, len(texts), size):
            part = list(texts[start : start + size])
            answers = ask(part, lambda done, _, start=start: progress(start + done, len(texts), "texts"))  # type: ignore[misc]
            yield from zip(part, answers, strict=True)
    finally:
        progress.close()


class Writer:
    """Writes answers to stdout.  columns: of CSV and the table.

    failed: how many answers were errors.
    """

    def __init__(self, output: str, columns: Sequence[str]) -> None:
        self.failed, self._error = 0, ""
        self._output = output
        self._columns = [*columns]
        self._rows: list[Row] = []
        self._csv = csv.writer(sys.stdout, lineterminator="\n")
        if output == "csv":
            self._columns.append("error")
            self._csv.writerow(self._columns)

    def write(self, value: Row, rows: Sequence[Row]) -> None:
        """An answer: `value` for JSON, and the rows that it has in CSV or a table; only itself where it is an error."""
        if "error" in value:
            self.failed += 1
            self._error = self._error or f"; the first: {_plain(str(value['error']))}"
            rows = [value]
        if self._output == "json":
            print(_plain(json.dumps(value, ensure_ascii=False)))
        elif self._output == "csv":
            self._csv.writerows([_cell(row.get(name)) for name in self._columns] for row in rows)
        else:
            self._rows += rows

    def close(self) -> int:
        """Writes the table; -> the exit code, 1 where an answer was an error."""
        if self._rows:
            columns = self._columns + (["error"] if self.failed else [])
            cells = [[_shown(row.get(name)) for name in columns] for row in self._rows]
            align = "".join(">" if all(map(_is_number, column)) else "<" for column in zip(*cells, strict=True))
            soft = [i for i, side in enumerate(align) if side == "<"]
            print(table(columns, cells, align, soft=soft))
        if self.failed:
            why = self._error if self._output == "table" else ""  # which has no room for it
            print(f"lepton: {self.failed} could not be answered{why}", file=sys.stderr)
        return 1 if self.failed else 0


def _plain(text: str) -> str:
    """Text that can be written: lone surrogates as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return _plain(text)


def _shown(value: Any) -> str:
    """A cell of a table: one line, short, without what could control the terminal."""
    return shorten(" ".join(_cell(value).split()).translate(CONTROLS), CELL)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return not text
    return True
