"""Summarize texts with an encoder-decoder, such as Bart, Pegasus or T5."""

import argparse

from lepton_edge.cli.rows import add_task_options, add_text_options
from lepton_edge.cli.translate import add_writing_options, write_texts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The texts."""
    add_text_options(parser)
    add_task_options(parser, "a model folder", alone=True)
    add_writing_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Writes each text's summary."""
    return write_texts(arguments, "summary", "summarize")
