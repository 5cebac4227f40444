"""Show what lepton finds on this machine."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""


def run(arguments: argparse.Namespace) -> int:
    """Prints what was found."""
    return 0
