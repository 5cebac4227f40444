"""`python tools/import_rwkv.py SRC.bin DST`: a model file of rwkv.cpp (RWKV 4 or 7) as a Hugging Face folder.

RWKV 4 becomes what transformers calls RwkvForCausalLM, RWKV 7 what flash-linear-attention calls RWKV7ForCausalLM.
A vocabulary of 256 entries is that of bytes, and gets a tokenizer.json; another one needs its own tokenizer's files.
The format: https://github.com/RWKV/rwkv.cpp/blob/master/docs/FILE_FORMAT.md
"""

import argparse
import json
import re
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lepton_edge.checkpoint.safetensors import Entry, write_safetensors

MAGIC, VERSIONS = 0x67676D66, (100, 101)
DTYPES = {0: "<f4", 1: "<f2"}
MAX_DIMS, MAX_NAME = 4, 256
Tensors = dict[str, np.ndarray]

NAMES_4 = {
    "emb.weight": "rwkv.embeddings.weight",
    "ln_out": "rwkv.ln_out",
    "head.weight": "head.weight",
    "ln0": "rwkv.blocks.{}.pre_ln",
    "att": "rwkv.blocks.{}.attention",
    "ffn": "rwkv.blocks.{}.feed_forward",
    "": "rwkv.blocks.{}",
}
NAMES_7 = {
    "emb.weight": "model.embeddings.weight",
    "ln_out": "model.norm",
    "head.weight": "lm_head.weight",
    "ln0": "model.layers.{}.pre_norm",
    "att": "model.layers.{}.attn",
    "ffn": "model.layers.{}.ffn",
    "": "model.layers.{}",
}
LONG = {"k": "key", "v": "value", "r": "receptance"}


def read(path: Path) -> Tensors:
    """The tensors of a file, float32, by their names there.  SystemExit for a file that is not as described."""
    raw = path.read_bytes()
    if len(raw) < 24:
        raise SystemExit(f"{path}: is too short for a header of rwkv.cpp")
    magic, version, *_ = struct.unpack_from("<6i", raw)
    if magic != MAGIC or version not in VERSIONS:
        raise SystemExit(f"{path}: is not a model file of rwkv.cpp of version {VERSIONS}")
    at, found = 24, {}
    while at < len(raw):
        name, values, at = read_tensor(path, raw, at)
        found[name] = values
    return found


def read_tensor(path: Path, raw: bytes, at: int) -> tuple[str, np.ndarray, int]:
    """The tensor whose header begins at `at`; -> its name, its values, and where the next one begins."""
    if at + 12 > len(raw):
        raise SystemExit(f"{path}: ends within the header of a tensor")
    dims, length, kind = struct.unpack_from("<3i", raw, at)
    if not (1 <= dims <= MAX_DIMS and 1 <= length <= MAX_NAME) or at + 12 + 4 * dims + length > len(raw):
        raise SystemExit(f"{path}: a tensor's header is damaged, {at} bytes into the file")
    shape = struct.unpack_from(f"<{dims}i", raw, at + 12)[::-1]
    at += 12 + 4 * dims
    name = raw[at : at + length].decode("utf-8", "replace")
    at += length
    if kind not in DTYPES:
        raise SystemExit(f"{path}: {name} has data type {kind}; expected FP32 or FP16 weights")
    count = int(np.prod([int(n) for n in shape], dtype=object))
    size = count * np.dtype(DTYPES[kind]).itemsize
    if min(shape) < 1 or at + size > len(raw):
        raise SystemExit(f"{path}: {name} has shape {list(shape)}, which is more than the file holds")
    values = np.frombuffer(raw, DTYPES[kind], count, at).reshape(shape).astype(np.float32)
    return name, values, at + size


def convert_4(tensors: Tensors) -> Tensors:
    """RWKV 4: rwkv.cpp holds -e^decay where transformers holds the decay."""
    made = {}
    for name, values in tensors.items():
        parts = name.split(".")
        if parts[-1] == "time_decay":
            values = np.log(-values.astype(np.float64)).astype(np.float32)
        if parts[-1].startswith("time_mix_"):
            parts[-1] = f"time_mix_{LONG[parts[-1][-1]]}"
            values = values.reshape(1, 1, -1)
        made[renamed(parts, NAMES_4)] = values
    return made


def convert_7(tensors: Tensors) -> Tensors:
    """RWKV 7: the six mixes apart, and each low-rank map as two linear ones."""
    made = {}
    for name, values in tensors.items():
        *head, last = parts = name.split(".")
        low_rank = re.fullmatch(r"([wavg])([012])", last)
        if last == "x_rwkvag":
            for letter, mix in zip("rwkvag", values, strict=True):
                made[renamed([*head, f"x_{letter}"], NAMES_7)] = mix.reshape(1, 1, -1)
            continue
        if low_rank:
            which, part = low_rank.groups()
            kind = {"1": "lora.0.weight", "2": "lora.2.weight", "0": "lora.2.bias"}[part]
            parts = [*head, f"{which}_lora", *kind.split(".")]
        elif "att" in parts and parts[-2] in ("receptance", "key", "value", "output"):
            parts[-2] = f"{parts[-2][0]}_proj"
        elif "ln_x" in parts:
            parts[-2] = "g_norm"
        elif parts[-2] in ("ln1", "ln2"):
            parts[-2] = {"ln1": "attn_norm", "ln2": "ffn_norm"}[parts[-2]]
        if values.ndim == 3 or last == "x_k":
            values = values.reshape(-1)
        if last == "r_k":
            values = values.reshape(len(values), -1)
        made[renamed(parts, NAMES_7)] = values
    return made


def renamed(parts: list[str], names: dict[str, str]) -> str:
    """A tensor's name in a Hugging Face folder, from the parts of its name."""
    if parts[0] != "blocks":
        whole = ".".join(parts)
        return names[whole] if whole in names else ".".join([names[parts[0]], *parts[1:]])
    module = parts[2] if parts[2] in names else ""
    rest = parts[3:] if module else parts[2:]
    return ".".join([names[module].format(parts[1]), *rest])


def config_of(tensors: Tensors, version: int) -> dict[str, Any]:
    """config.json, from the shapes of rwkv.cpp's tensors."""
    vocab, hidden = tensors["emb.weight"].shape
    shared = {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "num_hidden_layers": len({name.split(".")[1] for name in tensors if name.startswith("blocks.")}),
        "intermediate_size": len(tensors["blocks.0.ffn.key.weight"]),
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    if version == 4:
        width = len(tensors["blocks.0.att.key.weight"])
        own = {"attention_hidden_size": width, "context_length": 1024, "layer_norm_epsilon": 1e-5, "rescale_every": 0}
        return {"architectures": ["RwkvForCausalLM"], "model_type": "rwkv"} | shared | own
    ranks = {"decay": "w", "a": "a", "gate": "g", "v": "v"}
    layer = {name.removeprefix("blocks.1.att."): len(values) for name, values in tensors.items()}
    own = {
        "head_dim": tensors["blocks.0.att.r_k"].shape[-1],
        "hidden_act": "sqrelu",
        "norm_eps": 1e-5,
        "norm_bias": True,
        "norm_first": True,
        **{f"{name}_low_rank_dim": layer[f"{letter}1"] for name, letter in ranks.items()},
    }
    return {"architectures": ["RWKV7ForCausalLM"], "model_type": "rwkv7"} | shared | own


def byte_tokenizer() -> dict[str, Any]:
    """tokenizer.json in which the token of a byte is its value; bytes are spelled as in GPT-2's vocabulary."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    spelled = {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    bytes_as_they_are = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": bytes_as_they_are,
        "post_processor": None,
        "decoder": bytes_as_they_are,
        "model": {"type": "BPE", "vocab": {spelled[byte]: byte for byte in range(256)}, "merges": []},
    }


def convert(source: Path, target: Path) -> None:
    """Writes the folder `target`, which must not exist yet."""
    tensors = read(source)
    if "blocks.0.att.time_first" in tensors and "blocks.0.att.ln_x.weight" not in tensors:
        version, made = 4, convert_4(tensors)
    elif "blocks.1.att.r_k" in tensors:
        version, made = 7, convert_7(tensors)
    else:
        raise SystemExit(f"{source}: is neither RWKV 4 nor RWKV 7")
    target.mkdir(parents=True)
    files: dict[str, Any] = {"config.json": config_of(tensors, version)}
    if len(tensors["emb.weight"]) == 256:
        files["tokenizer.json"] = byte_tokenizer()
    for name, content in files.items():
        (target / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
    entries = [Entry.of_floats(name, values) for name, values in made.items()]
    write_safetensors(target / "model.safetensors", entries, {"format": "pt"})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    convert(arguments.source, arguments.target)
