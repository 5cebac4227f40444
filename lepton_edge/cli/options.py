"""Options and argument types that several verbs share.

Values are checked by the parts that use them (formats, instruction sets, sampling), which know what they support;
here only the type is.
"""

import argparse


def count(text: str) -> int:
    """An argparse type: a whole number >= 0."""
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 999999999, got {text!r}")
    return int(text)


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """--format, --kv-dtype, -t and --isa: how a model is held and run."""
    parser.add_argument("--format", metavar="NAME", help="pack the weights while loading: q4, q8, bf16, f16 or f32")
    parser.add_argument("--kv-dtype", metavar="NAME", help="the cache of keys and values: f16 (default), q8 or f32")
    parser.add_argument("-t", "--threads", type=count, metavar="N", help="default: the performance cores")
    parser.add_argument("--isa", metavar="NAME", help="instruction set (default: the best; see lepton doctor)")
