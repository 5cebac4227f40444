"""Writes a GGUF file of random weights at a real model's shape, for llama.cpp's `llama-bench`.

    python -m bench.gguf_random smollm2-135m        (needs the extra `bench`)

Every matrix, the embedding too, has the one format asked for, as `lepton bench --shape` has; norms and biases are
f32. The blocks are random bytes under sane scales: speed does not depend on their values, only finiteness does. bf16
has no blocks: its numbers are uniform.
Rope scaling is left out, which changes a table and no speed.
"""

import argparse
import math
from pathlib import Path

import numpy as np
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFWriter, LlamaFileType, get_tensor_name_map

from bench.engines import GGML_TYPES, GGUF_FOLDER, gguf_name
from lepton_edge.cli.shapes import SHAPES
from lepton_edge.models.registry import spec_from_config
from lepton_edge.models.spec import ModelSpec

GROUP = 32  # weights per block, in Q4_0 and in Q8_0
CODE_BYTES = {"q4": 16, "q8": 32}  # per block, after its fp16 scale
CODE_SPREAD = {"q4": 4.6, "q8": 73.9}  # standard deviation of a uniformly random code


def row_bytes(columns: int, format: str) -> int:
    """Bytes of one row of `columns` weights."""
    if format == "bf16":
        return 2 * columns
    if columns % GROUP:
        raise ValueError(f"{columns} columns: a row must be a multiple of {GROUP} weights")
    return columns // GROUP * (2 + CODE_BYTES[format])


def random_blocks(rng: np.random.Generator, rows: int, columns: int, format: str) -> np.ndarray:
    """uint8 [rows, bytes per row]: `columns` weights a row, whose standard deviation is about 1/sqrt(columns)."""
    if format == "bf16":
        uniform = (rng.random((rows, columns), np.float32) - 0.5) * np.float32(math.sqrt(12 / columns))
        return (uniform.view(np.uint32) >> 16).astype("<u2").view(np.uint8)  # the upper half of an f32 is a bf16
    blocks = np.frombuffer(rng.bytes(rows * row_bytes(columns, format)), np.uint8)
    blocks = blocks.reshape(rows, columns // GROUP, 2 + CODE_BYTES[format]).copy()
    scales = rng.uniform(0.5, 1.5, blocks.shape[:2]) / (CODE_SPREAD[format] * math.sqrt(columns))
    blocks[:, :, :2] = scales.astype("<f2")[..., None].view(np.uint8)
    return blocks.reshape(rows, -1)


def tensors(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Every tensor under its GGUF name -> its shape."""
    arch = next(arch for arch in MODEL_ARCH if MODEL_ARCH_NAMES[arch] == spec.family)
    names = get_tensor_name_map(arch, len(spec.layers))
    return {names.get_name(name, (".weight", ".bias")): shape for name, shape in spec.tensors().items()}


def describe(out: GGUFWriter, spec: ModelSpec, format: str) -> None:
    """Adds the header's fields and every tensor's name, shape and type."""
    ggml_type = GGML_TYPES[format]
    attention = spec.attentions[0]
    out.add_file_type(LlamaFileType[f"MOSTLY_{ggml_type}"])
    out.add_tokenizer_model("no_vocab")
    out.add_vocab_size(spec.vocab)
    out.add_context_length(spec.context)
    out.add_embedding_length(spec.hidden)
    out.add_feed_forward_length(spec.layers[0].feed_forward.width)
    out.add_block_count(len(spec.layers))
    out.add_head_count(attention.heads)
    out.add_head_count_kv(attention.kv_heads)
    out.add_key_length(attention.head_dim)
    out.add_value_length(attention.head_dim)
    out.add_rope_dimension_count(attention.rope.dim)
    out.add_rope_freq_base(attention.rope.theta)
    out.add_layer_norm_rms_eps(spec.norm.eps)
    for name, shape in tensors(spec).items():
        if len(shape) == 2:
            size = (shape[0], row_bytes(shape[1], format))
            raw_dtype = GGMLQuantizationType[ggml_type]
            out.add_tensor_info(name, size, np.dtype(np.uint8), math.prod(size), raw_dtype=raw_dtype)
        else:
            out.add_tensor_info(name, shape, np.dtype(np.float32), 4 * math.prod(shape))


def write(spec: ModelSpec, format: str, path: Path) -> None:
    """Writes a model of random weights to `path`, tensor by tensor; the same arguments always give the same bytes.

    The file has its name only once it is complete, so that an interrupted run is never measured.
    """
    unfinished = path.with_suffix(".part")
    out = GGUFWriter(unfinished, spec.family)
    describe(out, spec, format)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_ti_data_to_file()
    rng = np.random.default_rng(0)
    for name, shape in tensors(spec).items():
        if len(shape) == 2:
            out.write_tensor_data(random_blocks(rng, *shape, format))
        else:
            out.write_tensor_data(np.full(shape, 0.0 if name.endswith("bias") else 1.0, np.float32))
    out.close()
    unfinished.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write random GGUF files for llama-bench.")
    parser.add_argument("shapes", nargs="*", metavar="SHAPE", help=f"of {', '.join(SHAPES)}; all when none is named")
    parser.add_argument("--format", choices=GGML_TYPES, default="q4")
    parser.add_argument("--dir", type=Path, default=GGUF_FOLDER, help="folder to write to (default: %(default)s)")
    args = parser.parse_args()
    unknown = sorted(set(args.shapes) - set(SHAPES))
    if unknown:
        parser.error(f"unknown shape {', '.join(unknown)}; there are {', '.join(SHAPES)}")
    args.dir.mkdir(parents=True, exist_ok=True)
    for name in args.shapes or SHAPES:
        path = args.dir / gguf_name(name, args.format)
        write(spec_from_config(SHAPES[name], name), args.format, path)
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
