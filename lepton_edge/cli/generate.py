"""Continue a text.

The prompt and its continuation are written to stdout as they come, so that a story reads as one; of an encoder-decoder,
which continues nothing, the answer alone.
"""

import argparse
import sys
import time
from typing import TYPE_CHECKING

from lepton_edge.cli.options import (
    ENGINE,
    SAMPLING,
    add_adapter_option,
    add_model_options,
    add_sampling_options,
    given,
    use_adapter,
)
from lepton_edge.errors import RequestError

if TYPE_CHECKING:
    from lepton_edge.api import Model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options; llama.cpp's short flags where it has them."""
    parser.add_argument("prompt", metavar="PROMPT", help="the text to continue; '-' reads it from stdin")
    add_model_options(parser)
    add_adapter_option(parser)
    add_sampling_options(parser)
    parser.add_argument("--no-display-prompt", action="store_true", help="write the continuation only")
    parser.add_argument("--json", action="store_true", help="write one JSON object when done")
    parser.add_argument("-v", "--verbose", action="store_true", help="report speeds on stderr")


def run(arguments: argparse.Namespace) -> int:
    """Streams the continuation, or prints it as JSON."""
    prompt = _prompt(arguments.prompt)
    import lepton_edge

    started = time.perf_counter()
    options = {name: getattr(arguments, name) for name in ENGINE}
    with lepton_edge.load(arguments.model, **options) as model:
        use_adapter(model, arguments)
        loaded = time.perf_counter() - started
        result = _generate(model, prompt, arguments)
    result["timings"] = {"load_s": round(loaded, 4), **result["timings"]}
    if arguments.json:
        import json

        print(json.dumps(result, ensure_ascii=False))
    if arguments.verbose:
        timings = result["timings"]
        print(
            f"load {loaded:.2f} s; prompt {result['prompt_tokens']} tokens, {timings['prompt_tok_s']:.1f} tok/s; "
            f"new {len(result['tokens'])} tokens, {timings['generate_tok_s']:.1f} tok/s",
            file=sys.stderr,
        )
    return 0


def _generate(model: "Model", prompt: str, arguments: argparse.Namespace) -> dict:
    """Runs the request, showing it as it goes unless JSON is asked for; returns what --json prints."""
    sampling = given(arguments, SAMPLING)
    show = not arguments.json
    pieces = model.stream(prompt, **sampling)  # what is wrong is said before anything is shown
    if show and not arguments.no_display_prompt and model.spec.encoder is None:
        print(prompt, end="", flush=True)
    texts: list[str] = []
    tokens: list[int] = []
    reason = None
    first = started = time.perf_counter()
    try:
        for piece in pieces:
            if not tokens:
                first = time.perf_counter()
            texts.append(piece.text)
            if piece.token is not None:
                tokens.append(piece.token)
            reason = piece.finish_reason
            if show:
                print(piece.text, end="", flush=True)
    finally:
        if show:
            print(flush=True)
    ended = time.perf_counter()
    prompt_tokens = len(model.tokenizer.encode(prompt))
    return {
        "text": "".join(texts),
        "tokens": tokens,
        "finish_reason": reason,
        "prompt_tokens": prompt_tokens,
        "timings": {
            "prompt_s": round(first - started, 4),
            "prompt_tok_s": _rate(prompt_tokens, first - started),
            "generate_s": round(ended - first, 4),
            "generate_tok_s": _rate(len(tokens) - 1, ended - first),
        },
    }


def _rate(count: int, seconds: float) -> float:
    return round(count / seconds, 2) if count > 0 and seconds > 0 else 0.0


def _prompt(argument: str) -> str:
    if argument == "-":
        data, where = sys.stdin.buffer.read(), "stdin"
    else:
        data, where = argument.encode("utf-8", "surrogateescape"), "PROMPT"
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"{where}: byte {error.start} is not UTF-8; expected UTF-8 text; convert it first") from None
