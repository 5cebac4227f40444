"""Measure how well a model foretells a text: its perplexity.

In windows of -c tokens that begin --stride tokens apart, as transformers' documentation defines it.
"""

import argparse

from lepton_edge.cli.options import count
from lepton_edge.cli.output import Progress
from lepton_edge.cli.rows import Writer, add_task_options, load_model, read_whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The text and the windows."""
    parser.add_argument("-f", "--file", metavar="FILE", default="-", help="the text (default: stdin)")
    add_task_options(parser, "a model folder, or an embedded model (default: stories)", required=False)
    parser.add_argument("-c", "--context", type=count, metavar="CTX", help="tokens of a window (default: the model's)")
    parser.add_argument("--stride", type=count, metavar="N", help="tokens between windows (default: no overlap)")


def run(arguments: argparse.Namespace) -> int:
    """Writes the perplexity, and what it was measured on."""
    text = read_whole(arguments.file)
    writer, progress = Writer(arguments.output, ["perplexity", "nll", "tokens", "scored", "windows"]), Progress()
    try:
        with load_model(arguments) as model:
            found = model.perplexity(
                text, arguments.context, arguments.stride, progress=lambda done, total: progress(done, total, "tokens")
            )
    finally:
        progress.close()
    writer.write(found, [found])
    return writer.close()
