"""Writes an int4 model of random weights at a real model's shape, for onnxruntime-genai.

    python -m bench.genai_random --python PEERS/bin/python smollm2-135m

The weights go to a Hugging Face folder in bf16, and onnxruntime-genai's own model builder, in the interpreter that has
it (with onnx, onnx-ir, torch and transformers), makes the model from that. Nothing is downloaded. The builder is asked
for its fastest on CPUs: blocks of 32, int8 activations (its defaults), and logits of a prompt's last token only.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import tokenizers

from bench.engines import GENAI_FOLDER, peers_python
from lepton_edge.checkpoint.safetensors import Entry, write_safetensors
from lepton_edge.cli.shapes import SHAPES
from lepton_edge.models.registry import spec_from_config
from lepton_edge.quant.random import RandomCheckpoint

TOKENS = {"<unk>": 0, "<s>": 1, "</s>": 2}  # the builder asks for a tokenizer, the measurement does not


def write_hugging_face(config: dict, folder: Path) -> None:
    """Writes config.json, model.safetensors and a tokenizer of three tokens into an existing folder."""
    config = {**config, "bos_token_id": TOKENS["<s>"], "eos_token_id": TOKENS["</s>"], "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config, indent=1), "utf-8")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(TOKENS, unk_token="<unk>"))
    tokenizer.add_special_tokens(list(TOKENS))
    tokenizer.save(str(folder / "tokenizer.json"))
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(kind, indent=1), "utf-8")
    shapes = spec_from_config(config, str(folder)).tensors()
    source = RandomCheckpoint(shapes, "bf16")
    entries = [_entry(source, name, shape) for name, shape in shapes.items()]
    write_safetensors(folder / "model.safetensors", entries, {"format": "pt"})


def _entry(source: RandomCheckpoint, name: str, shape: tuple[int, ...]) -> Entry:
    dtype = "F32" if len(shape) == 1 else "BF16"
    return Entry(name, dtype, shape, lambda: [source.weight(name).data])


def builder_command(python: Path, source: Path, target: Path, cache: Path) -> list[str]:
    """The command that makes the int4 model in `target` from the Hugging Face folder `source`."""
    command = [str(python), "-m", "onnxruntime_genai.models.builder", "-i", str(source), "-o", str(target)]
    return [*command, "-p", "int4", "-e", "cpu", "-c", str(cache), "--extra_options", "prune_lm_head=true"]


def write(config: dict, python: Path, folder: Path) -> None:
    """Makes the model's folder; it has its name only once it is complete. CalledProcessError when the builder fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        source, target = Path(scratch, "source"), Path(scratch, "target")
        source.mkdir()
        write_hugging_face(config, source)
        offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
        command = builder_command(python, source, target, Path(scratch, "cache"))
        subprocess.run(command, env=offline, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        shutil.rmtree(folder, ignore_errors=True)
        target.rename(folder)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.genai_random", description=__doc__.splitlines()[0])
    parser.add_argument("shapes", nargs="*", metavar="SHAPE", help=f"of {', '.join(SHAPES)}; all when none is named")
    parser.add_argument("--python", type=Path, default=peers_python(), help="(default: that of $LEPTON_BENCH_PEERS)")
    parser.add_argument("--dir", type=Path, default=GENAI_FOLDER, help="folder of the models (default: %(default)s)")
    args = parser.parse_args()
    unknown = sorted(set(args.shapes) - set(SHAPES))
    if unknown:
        parser.error(f"unknown shape {', '.join(unknown)}; there are {', '.join(SHAPES)}")
    if args.python is None:
        parser.error("no interpreter with onnxruntime-genai: give --python PATH or set LEPTON_BENCH_PEERS")
    for name in args.shapes or SHAPES:
        try:
            write(SHAPES[name], args.python, args.dir / name)
        except (OSError, subprocess.CalledProcessError) as error:
            tail = "\n".join((getattr(error, "stderr", None) or "").strip().splitlines()[-5:])
            print(f"bench.genai_random: error: {name}: {error}\n{tail}", file=sys.stderr)
            return 1
        print(args.dir / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
