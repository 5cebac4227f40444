"""Options and argument types that several verbs share.

Values are checked by the parts that use them (formats, instruction sets, sampling), which know what they support;
here only the type is.
"""

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lepton_edge.api import Model

SAMPLING = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "repeat_penalty", "seed", "stop")
ENGINE = ("format", "kv_dtype", "threads", "isa", "context", "device")


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
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: an NVIDIA GPU")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """-m, -c and those of `add_engine_options`: which model, and how it is run."""
    parser.add_argument(
        "-m", "--model", metavar="MODEL", help="a model folder, or an embedded model (default: stories)"
    )
    parser.add_argument("-c", "--context", type=count, metavar="N", help="positions to make room for")
    add_engine_options(parser)


def add_adapter_option(parser: argparse.ArgumentParser) -> None:
    """--adapter: what the model is run with."""
    parser.add_argument("--adapter", metavar="DIR", help="run the model with an adapter: a PEFT LoRA folder")


def use_adapter(model: "Model", arguments: argparse.Namespace) -> None:
    """Load and use what --adapter says, if it is given."""
    if arguments.adapter is not None:
        model.load_adapter(arguments.adapter, "adapter")
        model.use_adapter("adapter")


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """How tokens are chosen and when to stop."""
    parser.add_argument("-n", "--max-tokens", type=count, metavar="N", help="at most N new tokens")
    parser.add_argument("-s", "--seed", type=count, metavar="N", help="the same seed gives the same text")
    parser.add_argument("--temp", dest="temperature", type=float, metavar="X", help="0 takes the likeliest token")
    parser.add_argument("--top-k", type=count, metavar="N", help="choose among the N likeliest; 0: all")
    parser.add_argument("--top-p", type=float, metavar="X", help="choose among the likeliest that sum to X")
    parser.add_argument("--min-p", type=float, metavar="X", help="drop tokens less likely than X of the best")
    parser.add_argument("--repeat-penalty", type=float, metavar="X", help="above 1 discourages repetition")
    parser.add_argument("--stop", action="append", metavar="TEXT", help="end before TEXT; may be given again")


def given(arguments: argparse.Namespace, names: tuple[str, ...]) -> dict[str, Any]:
    """Those of the options that were given, by name."""
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
