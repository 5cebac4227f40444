"""Makes a Hugging Face folder of a llama2.c checkpoint (version 0 or 1, float32), or of the same model as F32 GGUF.

    python tools/import_llama2c.py stories260K.bin FOLDER

llama2.c turns neighbours of a head as pairs, Hugging Face's Llama i and i + dim/2: the rows of q and k are put in that
order. The GGUF reader is the package `gguf` (the extra `bench`).
"""

import argparse
import json
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
MAGIC = 0x616B3432  # of version 1
PARTS = ("attn_norm", "q", "k", "v", "o", "ffn_norm", "gate", "down", "up")  # w1, w2, w3 are gate, down, up
NAMES = {
    "attn_norm": "input_layernorm", "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
    "o": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm", "gate": "mlp.gate_proj", "down": "mlp.down_proj",
    "up": "mlp.up_proj",
}  # fmt: skip
GGUF_NAMES = {
    "attn_norm": "attn_norm", "q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output", "ffn_norm": "ffn_norm",
    "gate": "ffn_gate", "down": "ffn_down", "up": "ffn_up",
}  # fmt: skip


def read(path: Path) -> tuple[dict[str, int], dict[str, Floats]]:
    """Sizes (dim, hidden, layers, heads, kv_heads, vocab, length), and tensors under Hugging Face's names.

    Raises SystemExit for a file that is none of the three, or whose length is not what its header says.
    """
    data = path.read_bytes()
    if data[:4] == b"GGUF":
        return _read_gguf(path)
    one = len(data) > 256 and struct.unpack("<I", data[:4])[0] == MAGIC
    if one and struct.unpack("<i", data[4:8])[0] != 1:
        raise SystemExit(f"{path}: a llama2.c file of another version than 0 and 1")
    fields = struct.unpack("<7i", data[8:36] if one else data[:28])
    sizes = dict(zip(("dim", "hidden", "layers", "heads", "kv_heads", "vocab", "length"), fields, strict=True))
    tied = data[36] == 1 if one else sizes["vocab"] > 0
    sizes["vocab"] = abs(sizes["vocab"])
    if min(sizes.values()) < 1 or max(sizes.values()) > 1 << 20 or sizes["dim"] % sizes["heads"]:
        raise SystemExit(f"{path}: not a llama2.c checkpoint: its header says {sizes}")
    floats = np.frombuffer(data, "<f4", offset=256 if one else 28)
    return sizes, _split(path, sizes, floats, tied, one)


def _split(path: Path, sizes: dict[str, int], floats: Floats, tied: bool, one: bool) -> dict[str, Floats]:
    """The tensors of a llama2.c file: version 1 has all norms first, version 0 the tables of rope near the end."""
    dim, hidden, layers = (sizes[name] for name in ("dim", "hidden", "layers"))
    kv = dim // sizes["heads"] * sizes["kv_heads"]
    shapes: dict[str, tuple[int, ...]] = dict(
        attn_norm=(dim,), q=(dim, dim), k=(kv, dim), v=(kv, dim), o=(dim, dim), ffn_norm=(dim,), gate=(hidden, dim),
        down=(dim, hidden), up=(hidden, dim),
    )  # fmt: skip
    norms = [part for part in PARTS if "norm" in part]
    order = ["embed", *PARTS, "final_norm", "rope"]
    if one:
        order = [*norms, "final_norm", "embed", *(part for part in PARTS if part not in norms)]
    found: dict[str, Floats] = {}
    at = 0
    for part in [*order, *([] if tied else ["head"])]:
        shape = shapes.get(part, (sizes["vocab"], dim))
        if part == "final_norm":
            shape = (dim,)
        elif part == "rope":
            shape = (sizes["length"] * dim // sizes["heads"],)
        for i in range(layers if part in shapes else 1):
            count = int(np.prod(shape))
            if at + count > len(floats):
                raise SystemExit(f"{path}: ends within {part}")
            found[f"{part} {i}"] = floats[at : at + count].reshape(shape)
            at += count
    if at != len(floats):
        raise SystemExit(f"{path}: {len(floats) - at} floats more than its header says")
    return _named(sizes, found)


def _read_gguf(path: Path) -> tuple[dict[str, int], dict[str, Floats]]:
    from gguf import GGUFReader

    reader = GGUFReader(path)
    stored = {tensor.name: np.array(tensor.data, np.float32) for tensor in reader.tensors}
    fields = {
        "dim": "embedding_length", "hidden": "feed_forward_length", "layers": "block_count",
        "heads": "attention.head_count", "kv_heads": "attention.head_count_kv", "length": "context_length",
    }  # fmt: skip
    sizes = {name: int(reader.fields[f"llama.{key}"].parts[-1][0]) for name, key in fields.items()}
    found = {"embed 0": stored["token_embd.weight"], "final_norm 0": stored["output_norm.weight"]}
    sizes["vocab"] = len(found["embed 0"])
    if "output.weight" in stored:
        found["head 0"] = stored["output.weight"]
    for i in range(sizes["layers"]):
        found |= {f"{part} {i}": stored[f"blk.{i}.{name}.weight"] for part, name in GGUF_NAMES.items()}
    return sizes, _named(sizes, found)


def _named(sizes: dict[str, int], found: dict[str, Floats]) -> dict[str, Floats]:
    """Under Hugging Face's names, with q and k in its order."""
    named = {"model.embed_tokens.weight": found["embed 0"], "model.norm.weight": found["final_norm 0"]}
    if "head 0" in found:
        named["lm_head.weight"] = found["head 0"]
    for i in range(sizes["layers"]):
        for part in PARTS:
            values = found[f"{part} {i}"]
            if part in ("q", "k"):
                heads = values.reshape(sizes["heads" if part == "q" else "kv_heads"], -1, 2, sizes["dim"])
                values = heads.swapaxes(1, 2).reshape(values.shape)
            named[f"model.layers.{i}.{NAMES[part]}.weight"] = values
    return named


def write(sizes: dict[str, int], tensors: dict[str, Floats], folder: Path) -> Path:
    """Writes the folder, which must not exist, and returns it."""
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": sizes["dim"],
        "intermediate_size": sizes["hidden"], "num_hidden_layers": sizes["layers"], "rms_norm_eps": 1e-5,
        "num_attention_heads": sizes["heads"], "num_key_value_heads": sizes["kv_heads"], "vocab_size": sizes["vocab"],
        "max_position_embeddings": sizes["length"], "rope_theta": 10000.0, "bos_token_id": 1, "eos_token_id": 2,
        "tie_word_embeddings": "lm_head.weight" not in tensors,
    }  # fmt: skip
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    entries = []
    for name, values in tensors.items():
        data = np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint8)
        entries.append(Entry(name, "F32", values.shape, lambda data=data: iter([data])))
    write_safetensors(folder / "model.safetensors", entries, {"format": "pt"})
    return folder


def main() -> None:
    """Reads the one, writes the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    write(*read(arguments.file), arguments.folder)


if __name__ == "__main__":
    main()
