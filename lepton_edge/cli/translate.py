"""Translate texts with an encoder-decoder, such as Marian's, NLLB or T5."""

import argparse
from typing import TYPE_CHECKING, Any

from lepton_edge.cli.options import count
from lepton_edge.cli.rows import Done, Writer, add_task_options, add_text_options, answer_texts, load_model, read_texts

if TYPE_CHECKING:
    from lepton_edge.api import Model

__all__ = ["add_arguments", "add_writing_options", "run", "write_texts"]

PART = 32  # texts that are written together


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The texts and the languages."""
    add_text_options(parser)
    add_task_options(parser, "a model folder", alone=True)
    parser.add_argument("--source", metavar="CODE", help="language of the texts, as the tokenizer names it")
    parser.add_argument("--target", metavar="CODE", help="language to translate into")
    add_writing_options(parser)


def add_writing_options(parser: argparse.ArgumentParser) -> None:
    """How texts are written."""
    parser.add_argument("--beams", type=count, metavar="N", help="texts followed at a time (default: the model's)")
    parser.add_argument("--max-tokens", type=count, metavar="N", help="tokens of a text (default: the model's)")


def run(arguments: argparse.Namespace) -> int:
    """Writes each text's translation."""
    return write_texts(arguments, "translation", "translate", source=arguments.source, target=arguments.target)


def write_texts(arguments: argparse.Namespace, column: str, task: str, **options: Any) -> int:
    """Write what a task of the model gives for each text; of one text, unless -o is given, as it comes."""
    texts, writer = read_texts(arguments), Writer(arguments.output or "table", ["text", column])
    options |= {"beams": arguments.beams, "max_tokens": arguments.max_tokens}
    with load_model(arguments) as model:
        if arguments.output is None and len(texts) == 1:
            _write_alone(model, task, texts[0], options)
            return 0

        def ask(part: list[Any], progress: Done) -> Any:
            return getattr(model, task)(part, errors="return", progress=progress, **options)

        for text, found in answer_texts(texts, ask, PART):
            row = {"text": text, **(found if isinstance(found, dict) else {column: found})}
            writer.write(row, [row])
    return writer.close()


def _write_alone(model: "Model", task: str, text: Any, options: dict[str, Any]) -> None:
    """Write the answer to one text: token by token, but of several beams at the end."""
    if (options["beams"] or model.beams) > 1:
        print(*getattr(model, task)([text], **options))
        return
    pieces = getattr(model, f"stream_{task}")(text, **options)
    try:
        for piece in pieces:
            print(piece.text, end="", flush=True)
    finally:
        print(flush=True)
