"""Small models whose weights come from a formula, so that only the logits of transformers need to be stored.

Both sides use this module: tools/make_golden.py writes the folders, runs transformers on them and stores the logits
in NAME.npz; the tests write the same folders and run lepton_edge. It needs NumPy and safetensors only.
"""

import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import recurrent

GOLDEN = Path(__file__).parent


@dataclass(frozen=True)
class Recipe:
    """One model: its config.json, how many tokens its golden run has, and how its folder stores the weights.

    `tables`: which of the embedding table ("embed") and the output head ("head") are stored; by default both, or only
    the embedding table of a tied model. A tied model that stores both, with different values, is in truth not tied.
    `steps`: the golden logits come from one-token steps with a cache rather than from one pass over all tokens.
    """

    name: str
    config: dict[str, Any]
    length: int = 48
    dtype: str = "F32"
    shards: int = 1
    tables: tuple[str, ...] = ()
    steps: bool = False


def _recipe(name: str, config: dict[str, Any], **options: Any) -> Recipe:
    """A recipe with the fields that all configs share; the family is the first part of the name."""
    architecture = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM"}
    family = name.split("_")[0]
    shared = {
        "architectures": [architecture[family]],
        "model_type": family,
        "hidden_act": "silu",
        "num_hidden_layers": 2,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if "rope_parameters" in config:
        del shared["rope_theta"]
    return Recipe(name, shared | config, **options)


def _sizes(hidden: int, ffn: int, heads: int, kv_heads: int, vocab: int, head_dim: int | None = None) -> dict[str, Any]:
    sizes = {
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
    }
    return sizes | ({} if head_dim is None else {"head_dim": head_dim})


def _llama3(**options: Any) -> dict[str, Any]:
    return {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    } | options


RECIPES = [
    _recipe("llama_plain", _sizes(64, 160, 4, 4, 96)),
    _recipe("llama_smollm", _sizes(144, 200, 9, 3, 101) | {"tie_word_embeddings": True, "num_hidden_layers": 3}),
    _recipe("llama_mqa", _sizes(80, 112, 5, 1, 77)),
    _recipe("llama_bias", _sizes(64, 120, 4, 2, 90, head_dim=24) | {"attention_bias": True, "mlp_bias": True}),
    _recipe("llama_head80", _sizes(160, 96, 2, 1, 64), length=40),
    _recipe("llama_head8", _sizes(40, 52, 5, 5, 53) | {"rms_norm_eps": 0.01, "tie_word_embeddings": True}),
    _recipe("llama_linear", _sizes(64, 96, 4, 2, 80) | {"rope_scaling": {"type": "linear", "factor": 4.0}}),
    _recipe(
        "llama_dynamic",
        _sizes(64, 96, 4, 2, 80)
        | {"max_position_embeddings": 24, "rope_scaling": {"rope_type": "dynamic", "factor": 2.5}},
        steps=True,
        length=56,
    ),
    _recipe("llama_llama3", _sizes(96, 128, 3, 1, 70) | {"rope_parameters": _llama3(rope_theta=500.0)}, length=64),
    _recipe(
        "llama_yarn",
        _sizes(96, 128, 3, 3, 70)
        | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}},
        length=64,
    ),
    _recipe("llama_bf16", _sizes(72, 104, 3, 1, 115, head_dim=32), dtype="BF16", shards=2),
    _recipe("llama_both", _sizes(48, 80, 3, 3, 75) | {"tie_word_embeddings": True}, tables=("embed", "head")),
    _recipe("llama_f16", _sizes(56, 88, 2, 2, 65) | {"tie_word_embeddings": True}, dtype="F16", tables=("head",)),
    _recipe("mistral_full", _sizes(100, 84, 6, 2, 131, head_dim=16) | {"sliding_window": None}, shards=2),
    _recipe("mistral_window", _sizes(64, 100, 4, 2, 99) | {"sliding_window": 13, "num_hidden_layers": 3}, length=64),
    _recipe(
        "mistral_yarn",
        _sizes(48, 100, 5, 1, 60, head_dim=40)
        | {
            "sliding_window": 17,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 5000.0,
                "factor": 8.0,
                "original_max_position_embeddings": 32,
                "beta_fast": 4,
                "beta_slow": 0.5,
                "mscale": 0.9,
                "mscale_all_dim": 0.4,
                "truncate": False,
            },
        },
        length=56,
    ),
    _recipe("qwen2_tied", _sizes(112, 144, 7, 1, 200) | {"tie_word_embeddings": True, "rope_theta": 1000000.0}),
    _recipe("qwen2_untied", _sizes(70, 90, 5, 5, 83, head_dim=8) | {"num_hidden_layers": 1}),
    _recipe(
        "qwen2_window",
        _sizes(64, 96, 4, 2, 72)
        | {"num_hidden_layers": 3, "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    ),
    _recipe(
        "qwen2_layers",
        _sizes(84, 132, 6, 3, 94)
        | {
            "num_hidden_layers": 3,
            "use_sliding_window": True,
            "sliding_window": 11,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 48,
                "attention_factor": 1.1,
            },
        },
        shards=2,
    ),
    _recipe(
        "qwen2_dynamic",
        _sizes(60, 76, 3, 1, 59)
        | {"max_position_embeddings": 16, "rope_parameters": {"rope_type": "dynamic", "factor": 4, "rope_theta": 5e3}},
        steps=True,
    ),
    *(Recipe(name, config) for name, config in recurrent.CONFIGS.items()),
]
BY_NAME = {recipe.name: recipe for recipe in RECIPES}


def token_ids(recipe: Recipe) -> np.ndarray:
    """The tokens of the golden run, int32 [recipe.length]."""
    return (_hash(f"{recipe.name}/tokens", recipe.length) % np.uint64(recipe.config["vocab_size"])).astype(np.int32)


def tensors(recipe: Recipe) -> dict[str, np.ndarray]:
    """Every tensor of the checkpoint as float32, with values that recipe.dtype holds exactly.

    Weights have a variance of about 1/inputs and norms lie around 1, so activations and logits are of order 1.
    q and k are larger, so that attention is uneven and errors in positions or windows show.
    """
    return {
        name: _round(_values(f"{recipe.name}/{name}", name, shape), recipe.dtype) for name, shape in _shapes(recipe)
    }


def checksum(recipe: Recipe) -> int:
    """CRC-32 of all that the golden logits depend on: the config, the tokens and the weights."""
    total = zlib.crc32(json.dumps(recipe.config, sort_keys=True).encode())
    total = zlib.crc32(token_ids(recipe).astype("<i4").tobytes(), total)
    for name, values in tensors(recipe).items():
        total = zlib.crc32(name.encode() + values.astype("<f4").tobytes(), total)
    return total


def load(name: str) -> dict[str, np.ndarray]:
    """What make_golden.py stored for a recipe: logits float32 [T, V], noise and checksum (scalars)."""
    with np.load(GOLDEN / f"{name}.npz") as stored:
        return dict(stored)


def write_folder(name: str, path: Path, shards: int | None = None) -> Path:
    """Writes the model as a Hugging Face folder (weights, config, tokenizer) to `path` and returns `path`."""
    recipe = BY_NAME[name]
    path.mkdir(parents=True, exist_ok=True)
    files: dict[str, Any] = {
        "config.json": recipe.config,
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2, "do_sample": False},
        "tokenizer.json": _tokenizer(recipe.config["vocab_size"]),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": "</s>",
        },
    }
    count = shards or recipe.shards
    stored = list(tensors(recipe).items())
    if count == 1:
        _write_safetensors(path / "model.safetensors", dict(stored), recipe.dtype)
    else:
        weight_map = {}
        for part in range(count):
            file = f"model-{part + 1:05}-of-{count:05}.safetensors"
            _write_safetensors(path / file, dict(stored[part::count]), recipe.dtype)
            weight_map |= {tensor: file for tensor, _ in stored[part::count]}
        files["model.safetensors.index.json"] = {"metadata": {}, "weight_map": weight_map}
    for file, content in files.items():
        (path / file).write_text(json.dumps(content, indent=1), encoding="utf-8")
    return path


def _shapes(recipe: Recipe) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors that transformers expects of a config; the generator checks that it finds neither more nor fewer."""
    config = recipe.config
    if config["model_type"] in recurrent.SHAPES:
        yield from recurrent.shapes(config)
        return
    tables = recipe.tables or (("embed",) if config["tie_word_embeddings"] else ("embed", "head"))
    hidden, ffn, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    head_dim = config.get("head_dim", hidden // heads)
    query, key = heads * head_dim, config["num_key_value_heads"] * head_dim
    attention_bias = config.get("attention_bias", False)
    qkv_bias = attention_bias or config["model_type"] == "qwen2"
    linear = {
        "self_attn.q_proj": (query, hidden, qkv_bias),
        "self_attn.k_proj": (key, hidden, qkv_bias),
        "self_attn.v_proj": (key, hidden, qkv_bias),
        "self_attn.o_proj": (hidden, query, attention_bias),
        "mlp.gate_proj": (ffn, hidden, config.get("mlp_bias", False)),
        "mlp.up_proj": (ffn, hidden, config.get("mlp_bias", False)),
        "mlp.down_proj": (hidden, ffn, config.get("mlp_bias", False)),
    }
    if "embed" in tables:
        yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        for module, (outputs, inputs, bias) in linear.items():
            yield f"model.layers.{layer}.{module}.weight", (outputs, inputs)
            if bias:
                yield f"model.layers.{layer}.{module}.bias", (outputs,)
        yield f"model.layers.{layer}.input_layernorm.weight", (hidden,)
        yield f"model.layers.{layer}.post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    if "head" in tables:
        yield "lm_head.weight", (config["vocab_size"], hidden)


def _values(seed: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    normal = _normal(seed, math.prod(shape)).reshape(shape)
    special = recurrent.values(name, normal)
    if special is not None:
        return special
    if name.endswith("norm.weight"):
        return 1.0 + 0.2 * normal
    if name.endswith(".bias"):
        return 0.3 * normal
    gain = 1.6 if "q_proj" in name or "k_proj" in name else 1.0
    return normal * (gain / math.sqrt(shape[1]))


def _normal(seed: str, count: int) -> np.ndarray:
    """About normal numbers of variance 1, float64 [count]: each the sum of four 16-bit uniform ones of one hash."""
    bits = _hash(seed, count)
    total = sum((bits >> np.uint64(shift) & np.uint64(0xFFFF)).astype(np.float64) for shift in (0, 16, 32, 48))
    return (total - 2 * 65535.0) / 65536.0 * math.sqrt(3.0)


def _hash(seed: str, count: int) -> np.ndarray:
    """splitmix64 of a counter, uint64 [count]: the same on every machine and for every version of NumPy."""
    start = zlib.crc32(seed.encode()) << 32
    z = (np.arange(1, count + 1, dtype=np.uint64) + np.uint64(start)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _round(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values that a tensor of that dtype holds exactly."""
    single = values.astype(np.float32)
    if dtype == "F16":
        return single.astype(np.float16).astype(np.float32)
    if dtype == "BF16":
        bits = single.view(np.uint32)
        return (bits + 0x7FFF + (bits >> 16 & 1) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    return single


def _write_safetensors(path: Path, content: dict[str, np.ndarray], dtype: str) -> None:
    """Header length, JSON header, data: https://huggingface.co/docs/safetensors."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, values in content.items():
        raw = {
            "F32": lambda v: v.astype("<f4").tobytes(),
            "F16": lambda v: v.astype("<f2").tobytes(),
            "BF16": lambda v: (v.view(np.uint32) >> 16).astype("<u2").tobytes(),
        }[dtype](values)
        header[name] = {"dtype": dtype, "shape": values.shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def _tokenizer(vocab: int) -> dict[str, Any]:
    """tokenizer.json with one token for each of the words <unk> <s> </s> w3 w4 …, split at spaces."""
    words = ["<unk>", "<s>", "</s>", *(f"w{index}" for index in range(3, vocab))]
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": index, "content": words[index]} | plain for index in range(3)],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {word: index for index, word in enumerate(words)},
            "unk_token": "<unk>",
        },
    }
