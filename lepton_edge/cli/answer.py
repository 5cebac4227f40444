"""Find answers to questions in a text."""

import argparse
from typing import Any

from lepton_edge.cli.options import count
from lepton_edge.cli.rows import Done, Writer, add_task_options, answer_texts, load_model, read_whole
from lepton_edge.errors import RequestError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The questions, and the text."""
    parser.add_argument("questions", nargs="+", metavar="QUESTION", help="what to find")
    parser.add_argument("--in", dest="context", metavar="TEXT", help="where the answer stands; or")
    parser.add_argument("-f", "--file", metavar="FILE", default="-", help="a file with that text (default: stdin)")
    add_task_options(parser, "the folder of a model that finds answers")
    parser.add_argument("-k", "--top-k", type=count, default=1, metavar="N", help="the N likeliest answers")
    parser.add_argument("--stride", type=count, metavar="N", help="tokens that pieces of a long text share")
    parser.add_argument("--max-answer", type=count, default=15, metavar="N", help="tokens of an answer, at most")
    parser.add_argument("--empty", action="store_true", help="there may be no answer")


def run(arguments: argparse.Namespace) -> int:
    """Writes the answers to each question."""
    text = read_whole(arguments.file) if arguments.context is None else arguments.context
    if not text.strip():
        raise RequestError("the text is empty; expected some text that the answer stands in: --in, -f or stdin")
    writer = Writer(arguments.output, ["question", "answer", "score", "start", "end"])
    with load_model(arguments) as model:

        def ask(part: list[Any], progress: Done) -> Any:
            rows = [{"question": question, "context": text} for question in part]
            return model.answer(
                rows, top_k=arguments.top_k, stride=arguments.stride, max_answer=arguments.max_answer,
                empty=arguments.empty, errors="return", progress=progress,
            )  # fmt: skip

        for question, found in answer_texts(arguments.questions, ask):
            if isinstance(found, dict) and "error" in found:
                writer.write({"question": question, **found}, [])
                continue
            answers = [found] if isinstance(found, dict) else found
            writer.write({"question": question, "answers": answers}, [{"question": question, **row} for row in answers])
    return writer.close()
