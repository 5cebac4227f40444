"""The small models with recurrent states: their configs, the tensors that transformers expects of them, and values."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

Shapes = Iterator[tuple[str, tuple[int, ...]]]

SHARED = {"bos_token_id": 1, "eos_token_id": 2, "num_hidden_layers": 2}
MAMBA = {"architectures": ["MambaForCausalLM"], "model_type": "mamba", "hidden_act": "silu"} | SHARED
MAMBA2 = {"architectures": ["Mamba2ForCausalLM"], "model_type": "mamba2", "hidden_act": "silu"} | SHARED

LFM2 = {
    "architectures": ["Lfm2ForCausalLM"], "model_type": "lfm2", "norm_eps": 1e-5, "max_position_embeddings": 256,
    "num_hidden_layers": 3, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
RWKV = {"architectures": ["RwkvForCausalLM"], "model_type": "rwkv", "context_length": 256} | SHARED

CONFIGS: dict[str, dict[str, Any]] = {
    "mamba_plain": MAMBA | {
        "hidden_size": 64, "state_size": 16, "vocab_size": 96, "time_step_rank": "auto", "tie_word_embeddings": True,
        "layer_norm_epsilon": 1e-5,
    },
    # Sizes that are multiples of nothing, biases, no bias of the convolution.
    "mamba_odd": MAMBA | {
        "hidden_size": 42, "state_size": 5, "vocab_size": 71, "time_step_rank": 7, "expand": 3, "conv_kernel": 3,
        "use_bias": True, "use_conv_bias": False, "tie_word_embeddings": False, "num_hidden_layers": 3,
    },
    "mamba2_plain": MAMBA2 | {
        "hidden_size": 64, "state_size": 16, "vocab_size": 96, "num_heads": 4, "head_dim": 32, "n_groups": 1,
        "tie_word_embeddings": True, "chunk_size": 16,
    },
    "mamba2_odd": MAMBA2 | {
        "hidden_size": 60, "state_size": 9, "vocab_size": 71, "num_heads": 6, "head_dim": 20, "n_groups": 3,
        "conv_kernel": 3, "use_bias": True, "use_conv_bias": False, "tie_word_embeddings": False, "chunk_size": 7,
        "time_step_limit": [0.05, 0.4], "num_hidden_layers": 3, "layer_norm_epsilon": 1e-3,
    },
    "lfm2_plain": LFM2 | {
        "hidden_size": 64, "intermediate_size": 160, "vocab_size": 96, "num_attention_heads": 4,
        "num_key_value_heads": 2, "layer_types": ["conv", "full_attention", "conv"], "tie_word_embeddings": True,
        "conv_L_cache": 3, "block_multiple_of": 32, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    },
    # As the first releases have it: other names, attention by its layers' numbers; sizes that are multiples of nothing.
    "lfm2_odd": LFM2 | {
        "hidden_size": 60, "block_ff_dim": 90, "vocab_size": 71, "num_attention_heads": 5, "num_key_value_heads": 1,
        "full_attn_idxs": [2], "tie_embedding": False, "conv_L_cache": 4, "conv_bias": True, "rope_theta": 5000.0,
        "block_auto_adjust_ff_dim": False,
    },
    "rwkv_plain": RWKV | {"hidden_size": 64, "vocab_size": 96, "tie_word_embeddings": False},
    "rwkv_odd": RWKV | {
        "hidden_size": 44, "attention_hidden_size": 60, "intermediate_size": 101, "vocab_size": 71,
        "tie_word_embeddings": True, "num_hidden_layers": 3, "rescale_every": 0,
    },
}  # fmt: skip


def shapes(config: dict[str, Any]) -> Shapes:
    """The tensors of a config of these families."""
    return SHAPES[config["model_type"]](config)


def _linear(name: str, outputs: int, inputs: int, bias: bool) -> Shapes:
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def _ends(config: dict[str, Any], embed: str, head: str, final: str) -> Shapes:
    yield f"{embed}.weight", (config["vocab_size"], config["hidden_size"])
    yield f"{final}.weight", (config["hidden_size"],)
    if not config["tie_word_embeddings"]:
        yield f"{head}.weight", (config["vocab_size"], config["hidden_size"])


def _convolution(name: str, channels: int, config: dict[str, Any]) -> Shapes:
    yield f"{name}.weight", (channels, 1, config.get("conv_kernel", 4))
    if config.get("use_conv_bias", True):
        yield f"{name}.bias", (channels,)


def _mamba(config: dict[str, Any]) -> Shapes:
    hidden, states, bias = config["hidden_size"], config["state_size"], config.get("use_bias", False)
    inner = int(config.get("expand", 2) * hidden)
    rank = -(-hidden // 16) if config["time_step_rank"] == "auto" else config["time_step_rank"]
    yield from _ends(config, "backbone.embeddings", "lm_head", "backbone.norm_f")
    for layer in range(config["num_hidden_layers"]):
        mixer = f"backbone.layers.{layer}.mixer"
        yield f"backbone.layers.{layer}.norm.weight", (hidden,)
        yield from _linear(f"{mixer}.in_proj", 2 * inner, hidden, bias)
        yield from _convolution(f"{mixer}.conv1d", inner, config)
        yield from _linear(f"{mixer}.x_proj", rank + 2 * states, inner, False)
        yield from _linear(f"{mixer}.dt_proj", inner, rank, True)
        yield f"{mixer}.A_log", (inner, states)
        yield f"{mixer}.D", (inner,)
        yield from _linear(f"{mixer}.out_proj", hidden, inner, bias)


def _mamba2(config: dict[str, Any]) -> Shapes:
    hidden, heads, bias = config["hidden_size"], config["num_heads"], config.get("use_bias", False)
    inner, both = heads * config["head_dim"], 2 * config["n_groups"] * config["state_size"]
    yield from _ends(config, "backbone.embeddings", "lm_head", "backbone.norm_f")
    for layer in range(config["num_hidden_layers"]):
        mixer = f"backbone.layers.{layer}.mixer"
        yield f"backbone.layers.{layer}.norm.weight", (hidden,)
        yield from _linear(f"{mixer}.in_proj", 2 * inner + both + heads, hidden, bias)
        yield from _convolution(f"{mixer}.conv1d", inner + both, config)
        for name in ("dt_bias", "A_log", "D"):
            yield f"{mixer}.{name}", (heads,)
        yield f"{mixer}.norm.weight", (inner,)
        yield from _linear(f"{mixer}.out_proj", hidden, inner, bias)


def _lfm2(config: dict[str, Any]) -> Shapes:
    hidden, heads, bias = config["hidden_size"], config["num_attention_heads"], config.get("conv_bias", False)
    head_dim, layers = hidden // heads, config["num_hidden_layers"]
    kinds = config.get("layer_types") or [
        "full_attention" if layer in config["full_attn_idxs"] else "conv" for layer in range(layers)
    ]
    ffn = config.get("block_ff_dim", config.get("intermediate_size"))
    if config.get("block_auto_adjust_ff_dim", True):
        ffn = -(-int(2 * ffn / 3) // config["block_multiple_of"]) * config["block_multiple_of"]
    tied = {"tie_word_embeddings": config.get("tie_embedding", config.get("tie_word_embeddings"))}
    yield from _ends(config | tied, "model.embed_tokens", "lm_head", "model.embedding_norm")
    for layer, kind in enumerate(kinds):
        name = f"model.layers.{layer}"
        for norm in ("operator_norm", "ffn_norm"):
            yield f"{name}.{norm}.weight", (hidden,)
        if kind == "conv":
            yield from _linear(f"{name}.conv.in_proj", 3 * hidden, hidden, bias)
            yield f"{name}.conv.conv.weight", (hidden, 1, config["conv_L_cache"])
            if bias:
                yield f"{name}.conv.conv.bias", (hidden,)
            yield from _linear(f"{name}.conv.out_proj", hidden, hidden, bias)
        else:
            key = config["num_key_value_heads"] * head_dim
            for part, outputs in (("q", hidden), ("k", key), ("v", key)):
                yield f"{name}.self_attn.{part}_proj.weight", (outputs, hidden)
            yield f"{name}.self_attn.out_proj.weight", (hidden, hidden)
            for part in "qk":
                yield f"{name}.self_attn.{part}_layernorm.weight", (head_dim,)
        for part, shape in (("w1", (ffn, hidden)), ("w3", (ffn, hidden)), ("w2", (hidden, ffn))):
            yield f"{name}.feed_forward.{part}.weight", shape


def _rwkv(config: dict[str, Any]) -> Shapes:
    hidden = config["hidden_size"]
    width, ffn = config.get("attention_hidden_size", hidden), config.get("intermediate_size", 4 * hidden)
    yield from _ends(config, "rwkv.embeddings", "head", "rwkv.ln_out")
    yield "rwkv.ln_out.bias", (hidden,)
    for layer in range(config["num_hidden_layers"]):
        name = f"rwkv.blocks.{layer}"
        for norm in ("pre_ln", "ln1", "ln2") if layer == 0 else ("ln1", "ln2"):
            yield f"{name}.{norm}.weight", (hidden,)
            yield f"{name}.{norm}.bias", (hidden,)
        for part in ("decay", "first"):
            yield f"{name}.attention.time_{part}", (width,)
        for part in ("key", "value", "receptance"):
            yield f"{name}.attention.time_mix_{part}", (1, 1, hidden)
            yield f"{name}.attention.{part}.weight", (width, hidden)
        yield f"{name}.attention.output.weight", (hidden, width)
        for part in ("key", "receptance"):
            yield f"{name}.feed_forward.time_mix_{part}", (1, 1, hidden)
        for part, shape in (("key", (ffn, hidden)), ("receptance", (hidden, hidden)), ("value", (hidden, ffn))):
            yield f"{name}.feed_forward.{part}.weight", shape


SHAPES = {"lfm2": _lfm2, "mamba": _mamba, "mamba2": _mamba2, "rwkv": _rwkv}


def values(name: str, normal: np.ndarray) -> np.ndarray | None:
    """A tensor's values from normal numbers of its shape; None for one that is filled as in any other model.

    Steps lie around 0.15 and decays between 0 and 1, so that tokens far back still count.
    """
    last = name.rpartition(".")[2]
    if last == "A_log":
        return 0.5 * normal + (np.log1p(np.arange(normal.shape[1])) if normal.ndim == 2 else 0.0)
    if last == "D":
        return 1.0 + 0.2 * normal
    if last == "dt_bias" or name.endswith("dt_proj.bias"):
        return normal - 2.0
    if last.startswith("time_mix_"):
        return 0.5 + 0.3 * normal
    if last in ("time_decay", "time_first"):
        return normal - 0.5
    if normal.ndim == 3:
        return normal / math.sqrt(normal.shape[2])
    if normal.ndim == 1 and last == "weight":
        return 1.0 + 0.2 * normal
    return None
