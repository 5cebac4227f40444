"""Configs of families with states: every field is checked, and an error names it."""

import copy
from typing import Any

import pytest
from golden.recurrent import CONFIGS

from lepton_edge.errors import ConfigError, UnsupportedModelError
from lepton_edge.models.registry import spec_from_config

WHERE = "/models/some/config.json"
RWKV7 = {
    "architectures": ["RWKV7ForCausalLM"], "model_type": "rwkv7", "hidden_size": 64, "head_dim": 16, "vocab_size": 40,
    "num_hidden_layers": 2,
}  # fmt: skip
ALL = {**CONFIGS, "rwkv7": RWKV7}
SHARED = ["hidden_size", "vocab_size", "num_hidden_layers"]
LFM2 = [*SHARED, "num_attention_heads", "num_key_value_heads", "max_position_embeddings", "conv_L_cache", "head_dim"]
SIZES = {
    "mamba_plain": [*SHARED, "state_size", "conv_kernel", "time_step_rank"],
    "mamba2_plain": [*SHARED, "state_size", "conv_kernel", "num_heads", "head_dim", "n_groups"],
    "lfm2_plain": [*LFM2, "intermediate_size", "block_multiple_of"],
    "lfm2_odd": [*LFM2, "block_ff_dim"],
    "rwkv_plain": [*SHARED, "attention_hidden_size", "intermediate_size"],
    "rwkv7": [*SHARED, "head_dim", "intermediate_size", "decay_low_rank_dim", "a_low_rank_dim", "gate_low_rank_dim",
              "v_low_rank_dim"],
}  # fmt: skip
NUMBERS = {
    "mamba_plain": ["layer_norm_epsilon", "expand"],
    "mamba2_plain": ["layer_norm_epsilon", "expand"],
    "lfm2_plain": ["norm_eps", "block_ffn_dim_multiplier"],
    "rwkv_plain": ["layer_norm_epsilon"],
    "rwkv7": ["norm_eps", "hidden_ratio"],
}
FLAGS = {
    "mamba_plain": ["use_bias", "use_conv_bias", "tie_word_embeddings"],
    "mamba2_plain": ["use_bias", "use_conv_bias", "tie_word_embeddings", "rms_norm"],
    "lfm2_plain": ["conv_bias", "block_auto_adjust_ff_dim", "tie_word_embeddings"],
    "lfm2_odd": ["tie_embedding"],
    "rwkv_plain": ["tie_word_embeddings"],
    "rwkv7": ["tie_word_embeddings", "norm_first", "norm_bias"],
}
WRONG = [
    *((SIZES, value) for value in (0, -1, 2.5, True, "8", [8], 1 << 40)),
    *((NUMBERS, value) for value in (-1, float("nan"), float("inf"), True, "1e-5", [1], 10**400)),
    *((FLAGS, value) for value in (0, 1, "true", [])),
]


def read(name: str, **changes: Any) -> Any:
    return spec_from_config(copy.deepcopy(ALL[name]) | changes, WHERE)


@pytest.mark.parametrize(("fields", "value"), WRONG)
def test_a_wrong_value_is_an_error_that_names_its_field(fields: dict[str, list[str]], value: Any) -> None:
    for name, field in ((name, field) for name, of in fields.items() for field in of):
        with pytest.raises(ConfigError) as raised:
            read(name, **{field: value})
        assert str(raised.value).startswith(f"{WHERE}: {field} is "), (name, field)
        assert "; expected " in str(raised.value)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("mamba_plain", {"expand": 0.001}, "expand is 0.001; expected at least 1 / hidden_size"),
        ("mamba_plain", {"time_step_rank": "automatic"}, "time_step_rank is 'automatic'; expected a whole number"),
        ("mamba2_plain", {"num_heads": 5}, "num_heads is 5; expected expand [*] hidden_size / head_dim, 4"),
        ("mamba2_plain", {"head_dim": 24}, "num_heads is 4; expected expand [*] hidden_size / head_dim, 5.33333"),
        ("mamba2_plain", {"expand": 3}, "num_heads is 4; expected expand [*] hidden_size / head_dim, 6"),
        ("mamba2_plain", {"n_groups": 3}, "n_groups is 3; expected a divisor of num_heads, 4"),
        ("mamba2_plain", {"time_step_limit": [0.1]}, "time_step_limit is .*; expected a list of 2 numbers"),
        ("mamba2_plain", {"time_step_limit": [-0.1, 1]}, "time_step_limit is .*; expected numbers from 0 to inf"),
        ("mamba2_plain", {"time_step_limit": ["0", 1]}, "time_step_limit is .*; expected numbers from 0 to inf"),
        ("mamba2_plain", {"time_step_limit": [0.4, 0.1]}, "time_step_limit is .*; expected the larger one last"),
        ("lfm2_plain", {"num_key_value_heads": 3}, "num_key_value_heads is 3; expected a divisor of"),
        ("lfm2_plain", {"hidden_size": 62}, "hidden_size is 62; expected an even multiple of num_attention_heads, 4"),
        ("lfm2_plain", {"layer_types": ["conv"]}, "layer_types is .*; expected 3 entries, not 1"),
        ("lfm2_plain", {"layer_types": []}, "layer_types is .*; expected a list of strings"),
        ("lfm2_plain", {"block_ffn_dim_multiplier": 1e-3, "intermediate_size": 100},
         "block_ffn_dim_multiplier is 0.001; expected a factor that leaves a width"),
        ("lfm2_odd", {"full_attn_idxs": [3]}, "full_attn_idxs is .*; expected numbers of layers, from 0 to 2"),
        ("lfm2_odd", {"full_attn_idxs": ["2"]}, "full_attn_idxs is .*; expected numbers of layers"),
        ("lfm2_odd", {"full_attn_idxs": [True]}, "full_attn_idxs is .*; expected numbers of layers"),
        ("lfm2_odd", {"full_attn_idxs": 2}, "full_attn_idxs is 2; expected a list"),
        ("rwkv7", {"head_dim": 24}, "head_dim is 24; expected a divisor of hidden_size, 64"),
    ],
)  # fmt: skip
def test_values_that_disagree(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{WHERE}: {message}"):
        read(name, **changes)


@pytest.mark.parametrize(
    ("name", "changes", "field"),
    [
        *((name, {"quantization_config": {"bits": 4}}, "quantization_config") for name in ALL if "odd" not in name),
        *((name, {"hidden_act": "mish"}, "hidden_act") for name in ALL if not name.startswith("rwkv_")),
        ("mamba2_plain", {"rms_norm": False}, "rms_norm"),
        ("lfm2_plain", {"layer_types": ["conv", "mamba", "conv"]}, "layer_types"),
        ("lfm2_plain", {"rope_parameters": {"rope_type": "spiral"}}, "rope_parameters.rope_type"),
        ("rwkv_plain", {"layer_norm_epsilon": 1e-3}, "layer_norm_epsilon"),
        ("rwkv7", {"norm_first": False}, "norm_first"),
        ("rwkv7", {"norm_bias": False}, "norm_bias"),
        ("rwkv7", {"attn": {"layers": [1]}}, "attn"),
    ],
)  # fmt: skip
def test_unsupported_options(name: str, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"^{WHERE}: {field} .* is not supported; supported: "):
        read(name, **changes)
