"""Show what a model folder holds, and the program that it becomes."""

import argparse
import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lepton_edge.cli.output import facts, shorten, size, table
from lepton_edge.errors import RequestError

if TYPE_CHECKING:
    from lepton_edge.checkpoint.store import Checkpoint
    from lepton_edge.models.spec import Attention, Block, ModelSpec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL and what to show of it."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a model folder, or an embedded model")
    parser.add_argument("--tensors", action="store_true", help="one row for each tensor")
    parser.add_argument("--program", action="store_true", help="one row for each operation of the program")
    parser.add_argument("--families", action="store_true", help="the architectures that can be run")


def run(arguments: argparse.Namespace) -> int:
    """Prints the summary, or what was asked for instead."""
    from lepton_edge.checkpoint.store import Checkpoint
    from lepton_edge.embedded import model_folder
    from lepton_edge.models.registry import families, spec_of

    if arguments.families:
        print("\n".join(families()))
        return 0
    if arguments.model is None:
        raise RequestError("MODEL is missing; expected a model folder or an embedded model's name, or --families")
    with Checkpoint.open(model_folder(arguments.model)) as checkpoint:
        if arguments.tensors:
            print(_tensors(checkpoint))
            return 0
        spec = spec_of(checkpoint)
        print(_listing(checkpoint, spec) if arguments.program else _summary(checkpoint, spec))
    return 0


def _tensors(checkpoint: "Checkpoint") -> str:
    rows = []
    for file in checkpoint.files:
        for name, info in file.tensors.items():
            shape = checkpoint.shape(name)
            stored = checkpoint.format(name) if name in checkpoint.packed else info.dtype.lower()
            rows.append([name, "x".join(map(str, shape)), stored, size(info.stop - info.start)])
    return table(["tensor", "shape", "format", "size"], rows)


def _summary(checkpoint: "Checkpoint", spec: "ModelSpec") -> str:
    shapes = spec.tensors()
    counts: defaultdict[str, int] = defaultdict(int)
    nbytes: defaultdict[str, int] = defaultdict(int)
    for name, shape in shapes.items():
        format = checkpoint.format(name)
        counts[format] += math.prod(shape)
        nbytes[format] += checkpoint.stored_bytes(name)
    parameters, total = sum(counts.values()), sum(nbytes.values())
    formats = ", ".join(f"{format} {100 * n / parameters:.1f}%" for format, n in sorted(counts.items()))
    unused = len(checkpoint.names - shapes.keys())
    found = {
        "folder": str(checkpoint.folder),
        "family": f"{spec.family} ({checkpoint.config['architectures'][0]})",
        "parameters": f"{parameters:,} in {len(shapes)} tensors" + (f"; {unused} more are not used" if unused else ""),
        "weights": f"{size(total)}, {8 * total / parameters:.2f} bits a parameter: {formats}",
        "files": ", ".join(file.path.name for file in checkpoint.files),
        **_layers(spec),
        "vocabulary": f"{spec.vocab}, {'tied to' if spec.tied else 'apart from'} the output head",
        **_context(spec),
    }
    if spec.target is not None:
        decoder = spec.target.spec
        found["decoder"] = f"layers {_layers(decoder)['layers']}; vocabulary {decoder.vocab}"
        found["vocabulary"] = str(spec.vocab)
    return facts(found)


def _width(part: "Block") -> str:
    from lepton_edge.models.spec import Experts

    if not isinstance(part, Experts):
        activation = getattr(part, "activation", type(part).__name__)
        return f"{getattr(part, 'width', '')} ({activation})".lstrip()
    shared = f" beside one of {part.shared} for all" if part.shared else ""
    return f"{part.width} in {part.top_k} of {part.count} experts{shared} ({part.activation})"


def _positions(attention: "Attention") -> str:
    rope = attention.rope
    if rope is None:
        return "; ALiBi" if attention.slopes else ""
    return f"; rope theta {rope.theta:g}" + (f", scaling {rope.scaling.kind}" if rope.scaling else "")


def _layers(spec: "ModelSpec") -> dict[str, str]:
    """What the layers are made of."""
    kinds = Counter(type(layer.mixer).__name__ for layer in spec.layers)
    mixers = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    plain = list(kinds) == ["Attention"]
    found = {"layers": f"{len(spec.layers)} of width {spec.hidden}" + ("" if plain else f": {mixers}")}
    feed_forwards = list(dict.fromkeys(layer.feed_forward for layer in spec.layers if layer.feed_forward is not None))
    bias = any(getattr(part, "bias", False) for part in feed_forwards)
    if feed_forwards:
        found["layers"] += f", feed-forward {' or '.join(map(_width, feed_forwards))}"
    if spec.attentions:
        attention = spec.attentions[0]
        windows = sorted({found.window for found in spec.attentions if found.window is not None})
        on = (("q, k, v", attention.qkv_bias), ("o", attention.o_bias), ("mlp", bias))
        biases = [part for part, has in on if has]
        found["attention"] = (
            f"{attention.heads} heads, {attention.kv_heads} for keys and values, {attention.head_dim} wide"
            + (f"; window {', '.join(map(str, windows))}" if windows else "")
            + (f"; biases on {', '.join(biases)}" if biases else "")
            + ("; sinks" if attention.sinks else "")
        )
    return found


def _context(spec: "ModelSpec") -> dict[str, str]:
    """How many tokens a sequence may have, and what they cost."""
    if not spec.attentions:
        return {"context": f"{spec.context} tokens in a state of one size"}
    cached = sum(2 * found.kv_heads * found.head_dim for found in spec.attentions)
    return {
        "context": f"{spec.context} tokens{_positions(spec.attentions[0])}",
        "cache": f"{size(2 * cached)} a token at 16 bits",
    }


def _listing(checkpoint: "Checkpoint", spec: "ModelSpec") -> str:
    """The program, a line for each operation: what it reads -> writes, and the weight it uses."""
    import numpy as np

    from lepton_edge.checkpoint.store import Weight
    from lepton_edge.kernels.layout import PAGE
    from lepton_edge.kernels.ops import ALWAYS
    from lepton_edge.program import build_program
    from lepton_edge.quant.formats import get_format

    kv_dtype = "f32" if checkpoint.format(spec.first_matrix) == "f32" else "f16"  # as the engine chooses

    def weight(name: str) -> "Weight":
        """A tensor; of one that would have to be packed first, only the sizes."""
        if not checkpoint.is_mxfp4(name):
            return checkpoint.weight(name)
        shape, format = checkpoint.shape(name), checkpoint.format(name)
        nbytes = get_format(format).nbytes(math.prod(shape[:-1]), shape[-1])
        return Weight(name, format, shape, np.broadcast_to(np.uint8(0), nbytes))

    program = build_program(spec, weight, kv_dtype, spec.context)
    rows = []
    for i, row in enumerate(program.rows):
        names = row.products or [str(row.values[name]) for name in row.values if name == "w"]
        weights = [program.weights_of(name) for name in names]
        experts = f"{len(weights[0])} of " if weights and len(weights[0]) > 1 else ""
        shape = experts + " ".join("x".join(map(str, held[0].shape)) for held in weights)
        nbytes = size(sum(weight.data.nbytes for held in weights for weight in held)) if weights else ""
        label = row.label.replace("layer ", "L")
        rows.append([str(i), row.op, label, shape, nbytes, shorten(_flow(row.op, row.values), 24)])
    barriers = sum(row.barrier == ALWAYS for row in program.rows)
    activations = sum(buffer.token_bytes for buffer in program.buffers.values() if buffer.within is None)
    return "\n".join(
        [
            table(["#", "op", "part", "weight", "size", "reads->writes"], rows, "><<>><"),
            "",
            f"{len(program.rows)} operations, {barriers} barriers in a step of one token",
            f"weights      {size(program.weight_bytes)}; a step of one token reads {size(program.step_bytes)}",
            f"activations  {size(activations)} a token",
            *([f"cache        {size(program.page_bytes)} a page of {PAGE} positions, in {kv_dtype}"]
              if program.page_bytes else []),
            *([f"state        {size(program.state_bytes)} a sequence"] if program.state_bytes else []),
        ]
    )


def _flow(op: str, values: Mapping[str, object]) -> str:
    """The buffers that a row reads, and after '->' those that it writes; '+' where it adds to them."""
    from lepton_edge.kernels.ops import OPS

    named = {f: str(values[f]) for f, kind in OPS[op].fields if kind == "a" and values.get(f) is not None}
    outputs = ("gate", "up", "records") if op.startswith("gated") else ("y", "records")
    reads = [buffer for field, buffer in named.items() if field not in outputs]
    plus = "+" if values.get("accumulate") else ""
    writes = [plus + buffer for field, buffer in named.items() if field in outputs]
    if op.startswith("rope"):
        writes = ["q", "cache"]  # it turns q in place
    return f"{','.join(reads)}->{','.join(writes or reads)}"  # what names no output works in place
