"""Find names in texts."""

import argparse
from typing import Any

from lepton_edge.cli.options import count
from lepton_edge.cli.rows import Done, Writer, add_task_options, add_text_options, answer_texts, load_model, read_texts

STRATEGIES = ("simple", "first", "average", "max", "none")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The texts, and how tokens are joined."""
    add_text_options(parser)
    add_task_options(parser, "the folder of a classifier of tokens")
    parser.add_argument("--strategy", choices=STRATEGIES, default="simple", help="how tokens become names")
    parser.add_argument("--stride", type=count, metavar="N", help="read long texts in pieces that share N tokens")


def run(arguments: argparse.Namespace) -> int:
    """Writes the names of each text."""
    texts = read_texts(arguments)
    kind = "entity" if arguments.strategy == "none" else "entity_group"
    writer = Writer(arguments.output, ["text", kind, "word", "start", "end", "score"])
    with load_model(arguments) as model:

        def ask(part: list[Any], progress: Done) -> Any:
            return model.entities(
                part, arguments.strategy, stride=arguments.stride, errors="return", progress=progress
            )  # fmt: skip

        for text, found in answer_texts(texts, ask):
            if isinstance(found, dict):
                writer.write({"text": text, **found}, [])
            else:
                writer.write({"text": text, "entities": found}, [{"text": text, **row} for row in found])
    return writer.close()
