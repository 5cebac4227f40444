"""Reads the command line, runs one verb, and turns every failure into one line and an exit code."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from lepton_edge.cli import (
    answer,
    bench,
    chat,
    classify,
    doctor,
    embed,
    entities,
    generate,
    inspect,
    merge,
    perplexity,
    quantize,
    rank,
    search,
    summarize,
    translate,
)
from lepton_edge.errors import LeptonError
from lepton_edge.version import __version__

VERBS = {
    "generate": generate,
    "chat": chat,
    "embed": embed,
    "search": search,
    "classify": classify,
    "entities": entities,
    "answer": answer,
    "rank": rank,
    "perplexity": perplexity,
    "translate": translate,
    "summarize": summarize,
    "quantize": quantize,
    "merge": merge,
    "bench": bench,
    "inspect": inspect,
    "doctor": doctor,
}

FAILED = 2
INTERRUPTED = 130  # 128 + SIGINT, what shells expect
PIPE_CLOSED = 141  # 128 + SIGPIPE

DEBUG_HELP = "show the traceback of an error"


class _Parser(argparse.ArgumentParser):
    """argparse, but a wrong argument is one line as well."""

    def error(self, message: str) -> NoReturn:
        self.exit(FAILED, f"lepton: error: {message}; see `{self.prog} --help`\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `lepton ARGV…` and returns the exit code: 0, or 2 after an error, 130 after Ctrl-C."""
    _survive_narrow_encodings()
    arguments = _parser().parse_args(argv)
    try:
        code = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _drop_stdout()
        return PIPE_CLOSED
    except Exception as error:
        if arguments.debug:
            import traceback

            traceback.print_exc()
        print(f"lepton: error: {_describe(error)}", file=sys.stderr)
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="lepton", description="Language models on this machine's CPU.")
    parser.add_argument("--version", action="version", version=f"lepton {__version__}")
    parser.add_argument("--debug", action="store_true", help=DEBUG_HELP)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb", required=True)
    for name, module in VERBS.items():
        summary = (module.__doc__ or "").split("\n")[0]
        verb = verbs.add_parser(name, help=summary, description=summary)
        # SUPPRESS: a default of the verb's own would overwrite a --debug that stands before the verb.
        verb.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=DEBUG_HELP)
        module.add_arguments(verb)
        verb.set_defaults(run=module.run)
    return parser


def _describe(error: Exception) -> str:
    if isinstance(error, LeptonError):
        text = str(error)
    elif isinstance(error, OSError):
        text = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
    elif isinstance(error, MemoryError):
        text = f"out of memory ({error or 'no details'}); use a smaller model, format or context"
    else:
        text = f"a bug in lepton: {type(error).__name__}: {error}; please report it with what --debug shows"
    return " ".join(text.split())


def _survive_narrow_encodings() -> None:
    """A character that the terminal cannot show becomes '?' instead of an error."""
    import io

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _drop_stdout() -> None:
    """Points stdout at nothing, so that Python's own flush at exit does not fail on the closed pipe again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
