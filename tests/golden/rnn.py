"""Small LSTM and GRU models, as data: configs, tokens, and weights that come from a formula.

Names and shapes come from lepton_edge's own specs; tools/make_rnn_golden.py, which stores in rnn.npz what torch.nn
computes, loads them strictly.
"""

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from lepton_edge.models.registry import spec_from_config

from .recipe import GOLDEN, _hash, _normal, _write_safetensors

LENGTHS = (17, 1, 40)
LANGUAGE, CLASSES, TOKENS, MODEL, SEQ2SEQ = (
    f"Rnn{kind}"
    for kind in ("ForCausalLM", "ForSequenceClassification", "ForTokenClassification", "Model", "ForSeq2Seq")
)


def _config(
    architecture: str, cell: str, embedding: int, hidden: int, layers: int = 1, **fields: Any
) -> dict[str, Any]:
    sizes = dict(vocab_size=61, embedding_size=embedding, hidden_size=hidden, num_layers=layers)
    return {"architectures": [architecture], "model_type": "rnn", "cell": cell} | sizes | fields


BOTH = dict(bidirectional=True)
LABELS = {str(i): f"kind {i}" for i in range(5)}
PAIR = dict(target_vocab_size=23, decoder_start_token_id=2, eos_token_id=3, max_new_tokens=12)
CONFIGS: dict[str, dict[str, Any]] = {
    "lstm_language": _config(LANGUAGE, "lstm", 40, 48, 2),
    "gru_language": _config(LANGUAGE, "gru", 33, 33, 2, tie_word_embeddings=True),
    "gru_plain": _config(LANGUAGE, "gru", 24, 70, 3, bias=False, head_bias=False),
    "lstm_plain": _config(LANGUAGE, "lstm", 64, 64, 1, bias=False),
    "lstm_classes": _config(CLASSES, "lstm", 20, 35, 2, **BOTH, id2label=LABELS),
    "gru_last": _config(CLASSES, "gru", 31, 40, 1, num_labels=3),
    "gru_mean": _config(CLASSES, "gru", 48, 24, 2, **BOTH, pooling="mean", problem_type="multi_label_classification"),
    "lstm_first": _config(CLASSES, "lstm", 16, 18, 1, **BOTH, pooling="first", head_bias=False),
    "lstm_tokens": _config(TOKENS, "lstm", 32, 45, 2, **BOTH, id2label=LABELS),
    "gru_states": _config(MODEL, "gru", 17, 29, 2, **BOTH),
    "gru_pair": _config(SEQ2SEQ, "gru", 26, 36, 2, **PAIR, target_embedding_size=20),
    "lstm_pair": _config(SEQ2SEQ, "lstm", 34, 34, 1, **PAIR),
}  # fmt: skip


def sequences(name: str) -> list[np.ndarray]:
    """The tokens of the golden run: int64 [T] of each sequence."""
    ids = (_hash(f"{name}/tokens", sum(LENGTHS)) % np.uint64(CONFIGS[name]["vocab_size"])).astype(np.int64)
    return np.split(ids, np.cumsum(LENGTHS)[:-1])


def written(name: str) -> np.ndarray:
    """Tokens that a decoder is given after each text: int64 [9], the first of which begins every answer."""
    ids = (_hash(f"{name}/written", 9) % np.uint64(PAIR["target_vocab_size"])).astype(np.int64)
    ids[0] = PAIR["decoder_start_token_id"]
    return ids


def tensors(name: str) -> dict[str, np.ndarray]:
    """Every tensor, float32: matrices of a variance of about 1/inputs, biases of 0.3."""
    found = {}
    for tensor, shape in spec_from_config(CONFIGS[name], name).tensors().items():
        normal = _normal(f"{name}/{tensor}", math.prod(shape)).reshape(shape)
        scale = 0.3 if len(shape) == 1 else 1.0 if "embedding" in tensor else 1.5 / math.sqrt(shape[1])
        found[tensor] = (normal * scale).astype(np.float32)
    return found


def checksum(name: str) -> int:
    """CRC-32 of all that the golden numbers depend on."""
    total = zlib.crc32(json.dumps(CONFIGS[name], sort_keys=True).encode())
    for ids in (*sequences(name), written(name)):
        total = zlib.crc32(ids.astype("<i8").tobytes(), total)
    for tensor, values in tensors(name).items():
        total = zlib.crc32(tensor.encode() + values.astype("<f4").tobytes(), total)
    return total


def load() -> dict[str, np.ndarray]:
    """What make_rnn_golden.py stored: for each name, NAME float32 [rows, N], and `NAME about`, [noise, checksum]."""
    with np.load(GOLDEN / "rnn.npz") as stored:
        return dict(stored)


def write_folder(name: str, path: Path) -> Path:
    """Writes the model's folder (config and weights) to `path` and returns it."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(CONFIGS[name], indent=1), encoding="utf-8")
    _write_safetensors(path / "model.safetensors", tensors(name), "F32")
    return path
