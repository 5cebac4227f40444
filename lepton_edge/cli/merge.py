"""Write a model folder with an adapter merged into its weights.

MODEL stays as it is; OUT becomes a model folder of its own, written beside its final place and renamed when complete.
"""

import argparse
from pathlib import Path

from lepton_edge.cli.output import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL, ADAPTER and OUT."""
    parser.add_argument("model", metavar="MODEL", type=Path, help="a Hugging Face model folder, not packed")
    parser.add_argument("adapter", metavar="ADAPTER", type=Path, help="a PEFT LoRA folder that was made for it")
    parser.add_argument("target", metavar="OUT", type=Path, help="the folder to write; must not exist yet")


def run(arguments: argparse.Namespace) -> int:
    """Merges, then says how many tensors it changed."""
    from lepton_edge.adapters.merge import merge_folder

    progress = Progress()
    try:
        changed = merge_folder(arguments.model, arguments.adapter, arguments.target, progress)
    finally:
        progress.close()
    print(f"{arguments.target}: {len(changed)} tensors of the adapter are in the weights")
    return 0
