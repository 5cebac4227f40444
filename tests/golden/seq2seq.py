"""Small encoder-decoders of every family, as data (see `families.py`): their configs, sources, and what is asked.

tools/make_golden.py stores in seq2seq.npz what transformers gives: NAME float32 [T, V], the logits of a target after
source 0, and for each request the ids that `generate` gives for all sources.
"""

import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lepton_edge.models.registry import spec_from_config
from lepton_edge.models.spec import ModelSpec

from .recipe import GOLDEN, _hash, _normal, _write_safetensors

VOCAB = 59
TARGET = 21
LENGTHS = (9, 23, 4)  # of the sources
REQUESTS: dict[str, dict[str, Any]] = {
    "greedy": dict(num_beams=1, max_new_tokens=16),
    "beams": dict(num_beams=4, max_new_tokens=16),
    "short": dict(num_beams=4, max_new_tokens=12, length_penalty=0.3, early_stopping=True, no_repeat_ngram_size=2),
    "long": dict(num_beams=3, max_new_tokens=14, length_penalty=2.0, early_stopping="never", min_new_tokens=5,
                 forced_bos_token_id=7, repetition_penalty=1.3),
    "forced": dict(num_beams=1, max_new_tokens=8, forced_bos_token_id=5, forced_eos_token_id=2,
                   no_repeat_ngram_size=3, bad_words_ids=[[3], [11]]),
}  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """One model."""

    name: str
    config: dict[str, Any]

    @property
    def spec(self) -> ModelSpec:
        """As its folder names the tensors."""
        return spec_from_config(self.config, self.name).with_tensors(
            ["shared.weight", "model.shared.weight", "model.encoder.embed_tokens.weight", "final_logits_bias"]
            + (["lm_head.weight"] if self.config.get("tie_word_embeddings") is False else [])
        )


def _t5(name: str, architecture: str = "T5ForConditionalGeneration", kind: str = "t5", **fields: Any) -> Pair:
    return Pair(name, {
        "architectures": [architecture], "model_type": kind, "vocab_size": VOCAB, "d_model": 48, "d_kv": 12, "d_ff": 96,
        "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4, "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 20, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 2,
        "is_encoder_decoder": True, **fields,
    })  # fmt: skip


def _bart(name: str, architecture: str, kind: str, **fields: Any) -> Pair:
    return Pair(name, {
        "architectures": [architecture], "model_type": kind, "vocab_size": VOCAB, "d_model": 48, "encoder_layers": 2,
        "decoder_layers": 3, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 96,
        "decoder_ffn_dim": 80, "max_position_embeddings": 64, "activation_function": "gelu", "pad_token_id": 1,
        "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2, "is_encoder_decoder": True,
        "forced_eos_token_id": None, **fields,
    })  # fmt: skip


PAIRS = [
    _t5("t5"),
    _t5("t5_v1_1", feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    _t5("mt5", "MT5ForConditionalGeneration", "mt5", feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    _bart("bart", "BartForConditionalGeneration", "bart"),
    _bart("marian", "MarianMTModel", "marian", pad_token_id=58, decoder_start_token_id=58, activation_function="swish",
          scale_embedding=True, bad_words_ids=[[58]]),
    _bart("mbart", "MBartForConditionalGeneration", "mbart", scale_embedding=True),
    _bart("pegasus", "PegasusForConditionalGeneration", "pegasus", pad_token_id=0, decoder_start_token_id=0,
          activation_function="relu", scale_embedding=True),
    _bart("m2m100", "M2M100ForConditionalGeneration", "m2m_100", activation_function="relu", scale_embedding=True),
]  # fmt: skip
BY_NAME = {pair.name: pair for pair in PAIRS}


def token_ids(pair: Pair, what: str, length: int) -> np.ndarray:
    """Ids that are no special ones, int32 [length]."""
    return (3 + _hash(f"{pair.name}/{what}", length) % np.uint64(VOCAB - 5)).astype(np.int32)


def sources(pair: Pair) -> list[np.ndarray]:
    """The sources, which end with EOS."""
    return [np.append(token_ids(pair, f"source {i}", n - 1), np.int32(2)) for i, n in enumerate(LENGTHS)]


def target(pair: Pair) -> np.ndarray:
    """What the golden logits follow, int32 [TARGET]."""
    return np.append(np.int32(pair.config["decoder_start_token_id"]), token_ids(pair, "target", TARGET - 1))


def tensors(pair: Pair) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of the folder, float32: as those of `families.py`, but louder, so that beams differ."""
    spec = pair.spec
    matrices = spec.matrices()
    for name, shape in spec.tensors().items():
        normal = _normal(f"{pair.name}/{name}", math.prod(shape)).reshape(shape)
        if name in matrices:
            table = any(word in name for word in ("shared", "embed_tokens", "lm_head"))
            gain = 2.0 if table else 0.4 if "Attention.q" in name else 1.8
            values = normal * (gain / math.sqrt(shape[-1]))
        elif "relative_attention_bias" in name or "positions" in name:
            values = normal
        else:
            values = 0.1 * normal if "bias" in name else 1.0 + 0.2 * normal
        yield name, np.ascontiguousarray(values.astype(np.float32))


def checksum(pair: Pair) -> int:
    """CRC-32 of all that the golden numbers depend on."""
    total = zlib.crc32(json.dumps([pair.config, REQUESTS], sort_keys=True).encode())
    for ids in (*sources(pair), target(pair)):
        total = zlib.crc32(ids.astype("<i4").tobytes(), total)
    for name, values in tensors(pair):
        total = zlib.crc32(name.encode() + values.astype("<f4").tobytes(), total)
    return total


def load() -> dict[str, np.ndarray]:
    """What make_golden.py stored: NAME, `NAME about`, [noise, checksum], and `NAME REQUEST`, ids padded with -1."""
    with np.load(GOLDEN / "seq2seq.npz") as stored:
        return dict(stored)


def write_folder(pair: Pair, path: Path) -> Path:
    """Writes the model as a Hugging Face folder to `path` and returns it."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(pair.config, indent=1), encoding="utf-8")
    _write_safetensors(path / "model.safetensors", dict(tensors(pair)), "F32")
    return path
