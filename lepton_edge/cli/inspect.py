"""Show what a model folder holds, and the program that it becomes."""

import argparse
from typing import TYPE_CHECKING

from lepton_edge.errors import RequestError

if TYPE_CHECKING:
    pass


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL and how much to show of it."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a model folder, or an embedded model")
    parser.add_argument("--tensors", action="store_true", help="one row for each tensor")
    parser.add_argument("--program", action="store_true", help="one row for each operation of the program")
    parser.add_argument("--families", action="store_true", help="the architectures that can be run")


def run(arguments: argparse.Namespace) -> int:
    """Prints the summary, or what was asked for instead."""
    from lepton_edge.models.registry import families

    if arguments.families:
        print("\n".join(families()))
        return 0
    if arguments.model is None:
        raise RequestError("MODEL is missing; expected a model folder or an embedded model's name, or --families")
    return 0
