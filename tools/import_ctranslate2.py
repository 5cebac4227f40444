"""Makes a folder that lepton_edge loads of an OpenNMT Transformer in CTranslate2's format (binary version 2).

    python tools/import_ctranslate2.py shared/data/models/ct2_aren_transliteration/v2/aren-transliteration FOLDER

The model has a vocabulary for each side, and a tokenizer.json has one: ids are those of both, one behind the other, and
the bias of the logits keeps the decoder from writing the source's.  Tokens are characters.
"""

import argparse
import json
import math
import struct
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lepton_edge.checkpoint.safetensors import Entry, write_safetensors  # noqa: E402

__all__ = ["read", "write"]

Floats = NDArray[np.float32]
KINDS = {1: np.int8, 2: np.int16, 4: np.float32}  # by the bytes of a number
NEVER = -1e9
BIG = 1 << 28
HEADS = 8  # of the specification TransformerBase, which does not store it
SPECIAL = ("<blank>", "<s>", "</s>")


def read(path: Path) -> tuple[str, dict[str, Floats]]:
    """The specification's name, and the tensors of a model.bin, whose int8 and int16 matrices are multiplied out.

    Raises SystemExit for a file that is none, or of another version.
    """
    data, at = path.read_bytes(), 0

    def take(kind: str) -> int:
        nonlocal at
        size = struct.calcsize(kind)
        if at + size > len(data):
            raise SystemExit(f"{path}: ends in the middle of a tensor; copy it again")
        (value,) = struct.unpack_from("<" + kind, data, at)
        at += size
        return int(value)

    def text() -> str:
        nonlocal at
        size = take("H")
        at += size
        return data[at - size : at].rstrip(b"\0").decode(errors="replace")

    if take("I") != 2:
        raise SystemExit(f"{path}: not of CTranslate2's binary version 2")
    name, _, tensors = text(), take("I"), {}
    for _ in range(take("I")):
        part = text()
        shape = [take("I") for _ in range(take("B"))]
        size, count = take("B"), take("I")
        fits = size in KINDS and count <= BIG and count == math.prod(shape) and at + size * count <= len(data)
        if not fits:
            raise SystemExit(f"{path}: {part}: {count} numbers of {size} bytes, which its shape {shape} does not fit")
        tensors[part] = np.frombuffer(data, KINDS[size], count, at).reshape(shape)
        at += size * count
    scales = {part: values for part, values in tensors.items() if part.endswith("_scale")}
    found: dict[str, Floats] = {}
    for part, values in tensors.items():
        if part not in scales:
            scale = scales.get(f"{part}_scale", np.ones((), np.float32))
            found[part] = values.astype(np.float32) / (scale[:, None] if scale.ndim else scale)
    return name, found


def write(source: Path, folder: Path) -> None:
    """Writes config.json, model.safetensors and tokenizer.json of the model in a folder of CTranslate2's."""
    name, stored = read(source / "model.bin")
    if name != "TransformerBase":
        raise SystemExit(f"{source}: is a {name}; expected a TransformerBase")
    words = {side: (source / f"{side}_vocabulary.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
             for side in ("source", "target")}  # fmt: skip
    if any(tuple(held[:3]) != SPECIAL for held in words.values()):
        raise SystemExit(f"{source}: its vocabularies do not begin with {', '.join(SPECIAL)}")
    every = list(dict.fromkeys([*words["source"], *words["target"]]))
    places = {side: [every.index(word) for word in held] for side, held in words.items()}
    tensors = _tensors(stored, len(every), places["source"], places["target"])
    hidden, inner = stored["decoder/layer_0/ffn/linear_0/weight"].shape[::-1]
    depth = {side: len({part.split("/")[1] for part in stored if part.startswith(f"{side}/layer_")} - {"layer_norm"})
             for side in ("encoder", "decoder")}  # fmt: skip
    config = {
        "architectures": ["CTranslate2Transformer"], "model_type": "ctranslate2", "vocab_size": len(every),
        "d_model": hidden, "encoder_layers": depth["encoder"], "decoder_layers": depth["decoder"],
        "encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS, "encoder_ffn_dim": inner,
        "decoder_ffn_dim": inner, "max_position_embeddings": 512, "activation_function": "relu",
        "scale_embedding": True, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
        "tie_word_embeddings": False, "early_stopping": True,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer(every)), encoding="utf-8")
    entries = [Entry.of_floats(name, values) for name, values in tensors.items()]
    write_safetensors(folder / "model.safetensors", entries)


def _tensors(stored: dict[str, Floats], vocab: int, source: list[int], target: list[int]) -> dict[str, Floats]:
    """Under Bart's names; the rows of the tables are at the places of their tokens."""
    found: dict[str, Floats] = {}
    for name, table, places in (
        ("model.encoder.embed_tokens.weight", "encoder/embeddings/weight", source),
        ("model.decoder.embed_tokens.weight", "decoder/embeddings/weight", target),
        ("lm_head.weight", "decoder/projection/weight", target),
    ):
        found[name] = np.zeros((vocab, stored[table].shape[1]), np.float32)
        found[name][places] = stored[table][: len(places)]
    bias = found["final_logits_bias"] = np.full((1, vocab), NEVER, np.float32)
    bias[0, target] = stored["decoder/projection/bias"][: len(target)]
    for part, values in stored.items():
        side, layer, *rest = part.split("/")
        place = f"model.{side}.layers.{layer.removeprefix('layer_')}."
        if layer == "layer_norm":
            found[f"model.{side}.layer_norm.{NORMS[rest[0]]}"] = values
        elif layer.startswith("layer_"):
            block, which, what = rest
            if which == "layer_norm":
                found[f"{place}{BLOCK_NORMS[block]}.{NORMS[what]}"] = values
            else:
                names = LINEARS[block][int(which[-1])]
                for name, rows in zip(names, np.split(values, len(names)), strict=True):
                    found[f"{place}{name}.{what}"] = rows
    return found


NORMS = {"gamma": "weight", "beta": "bias"}
BLOCK_NORMS = {"self_attention": "self_attn_layer_norm", "attention": "encoder_attn_layer_norm",
               "ffn": "final_layer_norm"}  # fmt: skip
LINEARS = {
    "self_attention": [[f"self_attn.{part}_proj" for part in "qkv"], ["self_attn.out_proj"]],
    "attention": [["encoder_attn.q_proj"], ["encoder_attn.k_proj", "encoder_attn.v_proj"], ["encoder_attn.out_proj"]],
    "ffn": [["fc1"], ["fc2"]],
}


def _tokenizer(words: list[str]) -> dict[str, object]:
    """A tokenizer.json whose tokens are characters."""
    added = [{"id": i, "content": word, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for i, word in enumerate(SPECIAL)]  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": False},
        "post_processor": None, "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}, "unk_token": "<blank>"},
    }  # fmt: skip


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="a folder with model.bin and two vocabularies")
    parser.add_argument("folder", type=Path, help="the folder to make")
    arguments = parser.parse_args()
    write(arguments.source, arguments.folder)


if __name__ == "__main__":
    main()
