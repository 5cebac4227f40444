"""Label texts."""

import argparse
from pathlib import Path
from typing import Any

from lepton_edge.cli.options import count
from lepton_edge.cli.rows import Done, Writer, add_task_options, add_text_options, answer_texts, load_model, read_texts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The texts, and which labels."""
    add_text_options(parser)
    add_task_options(parser, "a classifier's folder, or an embedded model")
    parser.add_argument("-k", "--top-k", type=count, default=1, metavar="N", help="the N likeliest labels; 0: all")
    parser.add_argument("--truncate", action="store_true", help="cut texts that are longer than the context")
    parser.add_argument("--labels", metavar="A,B,…", help="any labels, for a model of inference (zero-shot)")
    parser.add_argument("--hypothesis", metavar="TEXT", help="what is tested, with {} for the label")
    parser.add_argument("--several", action="store_true", help="those labels do not exclude each other")
    parser.add_argument(
        "--method", default="leave-one-out", choices=("leave-one-out", "rollout"),
        help="how the page weighs words: by what the label loses without them, or by attention",
    )  # fmt: skip
    parser.add_argument("--html", metavar="FILE", type=Path, help="also write a page that colours the words that count")


def run(arguments: argparse.Namespace) -> int:
    """Writes the labels of each text."""
    texts = read_texts(arguments)
    options: dict = {"truncate": arguments.truncate, "top_k": arguments.top_k or None}
    if arguments.labels is not None:
        labels = [label.strip() for label in arguments.labels.split(",") if label.strip()]
        options |= {"labels": labels, "hypothesis": arguments.hypothesis, "several": arguments.several}
    writer, good = Writer(arguments.output, ["text", "label", "score"]), []
    with load_model(arguments) as model:

        def ask(part: list[Any], progress: Done) -> Any:
            return model.classify(part, errors="return", progress=progress, **options)

        for text, found in answer_texts(texts, ask):
            if isinstance(found, dict):
                writer.write({"text": text, **found}, [])
                continue
            good.append(text)
            writer.write({"text": text, "labels": found}, [{"text": text, **row} for row in found])
        if arguments.html is not None:
            from lepton_edge.tasks.explanation import page

            explained = [model.explain(text, method=arguments.method) for text in good]
            arguments.html.write_text(page(explained), encoding="utf-8")
    return writer.close()
