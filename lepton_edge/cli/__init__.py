"""The `lepton` command: one file per verb, each with `add_arguments(parser)` and `run(arguments)`.

A verb imports what it needs inside `run`, so that `lepton --help` answers at once.
"""

from lepton_edge.cli.main import main

__all__ = ["main"]
