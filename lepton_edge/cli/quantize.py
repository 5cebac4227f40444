"""Pack a model folder's weights to 4 or 8 bits.

SRC stays as it is; DST becomes a model folder of its own, written beside its final place and renamed when complete.
"""

import argparse
from pathlib import Path

from lepton_edge.cli.output import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """SRC, DST and the format of each tensor."""
    parser.add_argument("source", metavar="SRC", type=Path, help="a Hugging Face model folder")
    parser.add_argument("target", metavar="DST", type=Path, help="the folder to write; must not exist yet")
    parser.add_argument("--format", required=True, metavar="NAME", help="q4 (4.5 bits a weight) or q8 (8.5 bits)")
    parser.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="REGEX=FORMAT",
        help="another format for tensors whose name matches; may be given again",
    )


def run(arguments: argparse.Namespace) -> int:
    """Packs, then prints one row a tensor and the totals."""
    from lepton_edge.checkpoint.store import Checkpoint
    from lepton_edge.models.registry import spec_of
    from lepton_edge.quant.quantize import quantize_folder

    with Checkpoint.open(arguments.source) as checkpoint:
        spec = spec_of(checkpoint)
    progress = Progress()
    try:
        report = quantize_folder(
            arguments.source, arguments.target, arguments.format, keep=arguments.keep, progress=progress,
            matrices=spec.matrices(), stored=spec.stored(),
        )  # fmt: skip
    finally:
        progress.close()
    print(report)
    return 0
