"""Search text files by meaning.

lepton search -i notes.index --build notes/    makes an index of a folder of text files
lepton search -i notes.index "how to reset"    finds passages in it
"""

import argparse
from pathlib import Path

from lepton_edge.cli.embed import default_model
from lepton_edge.cli.options import count
from lepton_edge.cli.output import Progress
from lepton_edge.cli.rows import Writer, add_task_options, load_model
from lepton_edge.errors import RequestError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The index, and queries or what it is made of."""
    parser.add_argument("-i", "--index", metavar="INDEX", type=Path, required=True, help="the index, one file")
    parser.add_argument("queries", nargs="*", metavar="QUERY", help="what to look for")
    parser.add_argument("--build", metavar="PATH", type=Path, help="make INDEX of a text file, or a folder of them")
    parser.add_argument("-k", "--top-k", type=count, default=5, metavar="N", help="so many passages (default 5)")
    add_task_options(parser, "default: of --build, minilm; of a search, the index's own", required=False)


def run(arguments: argparse.Namespace) -> int:
    """Builds an index, or searches one."""
    if (arguments.build is None) == (not arguments.queries):
        raise RequestError("expected either --build PATH or at least one QUERY")
    return _build(arguments) if arguments.build is not None else _search(arguments)


def _build(arguments: argparse.Namespace) -> int:
    from lepton_edge.embedded import find
    from lepton_edge.tasks.search import build_index, passages

    name = default_model(arguments.model)
    found = list(passages(arguments.build))
    progress = Progress()
    try:
        with load_model(arguments, name) as model:
            known = name if find(name) is not None else str(model.folder.resolve())
            made = build_index(model, found, arguments.index, known, lambda n, of: progress(n, of, "passages"))
    finally:
        progress.close()
    print(f"{arguments.index}: {made} passages of {len({item['file'] for item in found})} files")
    return 0


def _search(arguments: argparse.Namespace) -> int:
    from lepton_edge.tasks.search import Index

    writer = Writer(arguments.output, ["query", "text", "score", "file", "line"])
    with Index(arguments.index) as index, load_model(arguments, arguments.model or index.model) as model:
        for query, rows in zip(
            arguments.queries, index.search(model.embed(arguments.queries), arguments.top_k), strict=True
        ):
            writer.write({"query": query, "passages": rows}, [{"query": query, **row} for row in rows])
    return writer.close()
