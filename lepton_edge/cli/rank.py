"""Order documents by how well they answer a query."""

import argparse

from lepton_edge.cli.options import count
from lepton_edge.cli.output import Progress
from lepton_edge.cli.rows import Writer, add_task_options, add_text_options, load_model, read_texts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The query and the documents."""
    parser.add_argument("query", metavar="QUERY", help="what the documents are to answer")
    add_text_options(parser, "DOCUMENT")
    add_task_options(parser, "a cross-encoder's folder")
    parser.add_argument("-k", "--top-k", type=count, default=0, metavar="N", help="the N best (default: all)")


def run(arguments: argparse.Namespace) -> int:
    """Writes the documents, the best first."""
    texts = read_texts(arguments)
    writer, progress = Writer(arguments.output, ["text", "score", "corpus_id"]), Progress()
    try:
        with load_model(arguments) as model:
            found = model.rank(
                arguments.query, texts, arguments.top_k or None, errors="return",
                progress=lambda done, total: progress(done, total, "documents"),
            )  # fmt: skip
    finally:
        progress.close()
    for found_row in found:
        row = {**found_row, "text": texts[found_row["corpus_id"]]}  # which one that could not be scored lacks
        writer.write(row, [row])
    return writer.close()
