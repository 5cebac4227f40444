"""config.json to spec: what is read, what is refused and how, and that no value whatever does anything else."""

import copy
import json
import math
from typing import Any

import numpy as np
import pytest
from golden.recipe import BY_NAME, RECIPES, tensors
from hypothesis import given
from hypothesis import strategies as st

from lepton_edge.errors import ConfigError, UnsupportedModelError
from lepton_edge.models.registry import families, spec_from_config
from lepton_edge.models.rope import RopeSpec
from lepton_edge.models.spec import Attention, DecoderSpec, FeedForward, Layer, Norm

WHERE = "/models/some/config.json"


def config_of(name: str, **changes: Any) -> dict[str, Any]:
    """A recipe's config with some fields changed."""
    return copy.deepcopy(BY_NAME[name].config) | changes


def without(config: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != name}


def test_families() -> None:
    assert families() == [
        "LlamaForCausalLM", "Mamba2ForCausalLM", "MambaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM",
    ]  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_tensors_are_those_of_the_checkpoint(recipe) -> None:
    stored = tensors(recipe)
    spec = spec_from_config(recipe.config, WHERE).with_tensors(stored)
    assert spec.tensors() == {name: values.shape for name, values in stored.items()}


def test_where_the_table_of_a_tied_model_is_stored() -> None:
    embed, head = "model.embed_tokens.weight", "lm_head.weight"
    tied = spec_from_config(config_of("llama_smollm"), WHERE)
    assert tied.with_tensors([embed]) == tied.with_tensors([]) == tied
    moved = tied.with_tensors([head])
    assert moved.tied and moved.names.name("embed") == head and next(iter(moved.tensors())) == head
    both = tied.with_tensors([embed, head])
    assert not both.tied and {embed, head} <= both.tensors().keys()
    untied = spec_from_config(config_of("llama_plain"), WHERE)
    assert untied.with_tensors([head]) == untied


def test_a_llama_config() -> None:
    spec = spec_from_config(config_of("llama_bias"), WHERE)
    assert spec == DecoderSpec(
        family="llama",
        vocab=90,
        hidden=64,
        layers=(
            Layer(
                Attention(4, 2, 24, RopeSpec(10000.0, 24), window=None, qkv_bias=True, o_bias=True),
                FeedForward(120, "silu", bias=True),
            ),
        )
        * 2,
        context=256,
        norm=Norm(1e-5),
        tied=False,
    )
    assert hash(spec) == hash(copy.deepcopy(spec))


def test_names() -> None:
    names = spec_from_config(config_of("llama_bias"), WHERE).names
    assert names.name("embed") == "model.embed_tokens.weight"
    assert names.name("head") == "lm_head.weight"
    assert names.name("final_norm") == "model.norm.weight"
    assert names.name("ffn_norm", 0) == "model.layers.0.post_attention_layernorm.weight"
    assert names.name("down.bias", 11) == "model.layers.11.mlp.down_proj.bias"


def test_optional_fields() -> None:
    plain = config_of("llama_plain")
    spec = spec_from_config(plain, WHERE)
    for name in ("num_key_value_heads", "hidden_act", "tie_word_embeddings", "rope_theta"):
        assert spec_from_config(without(plain, name), WHERE) == spec, name
        assert spec_from_config(plain | {name: None}, WHERE) == spec, name
    assert spec_from_config(without(plain, "rms_norm_eps"), WHERE).norm.eps == 1e-6
    assert spec_from_config(plain | {"head_dim": None}, WHERE).attentions[0].head_dim == 16
    assert spec_from_config(plain | {"head_dim": 10}, WHERE).attentions[0].head_dim == 10


def windows_of(config: dict[str, Any]) -> tuple[int | None, ...]:
    return tuple(attention.window for attention in spec_from_config(config, WHERE).attentions)


@pytest.mark.parametrize(
    ("name", "changes", "windows"),
    [
        ("llama_plain", {"sliding_window": 5}, (None, None)),
        ("mistral_full", {}, (None, None)),
        ("mistral_window", {}, (13, 13, 13)),
        ("mistral_window", {"layer_types": ["sliding_attention"] * 3}, (13, 13, 13)),
        ("mistral_full", {"layer_types": ["full_attention"] * 2}, (None, None)),
        ("qwen2_tied", {}, (None, None)),
        ("qwen2_tied", {"sliding_window": 7, "max_window_layers": 0}, (None, None)),
        ("qwen2_window", {}, (None, 9, 9)),
        ("qwen2_window", {"sliding_window": None}, (None, None, None)),
        ("qwen2_window", {"max_window_layers": 3}, (None, None, None)),
        ("qwen2_layers", {}, (11, None, 11)),
        ("qwen2_layers", {"max_window_layers": 0}, (11, None, 11)),
    ],
)
def test_windows(name: str, changes: dict[str, Any], windows: tuple[int | None, ...]) -> None:
    assert windows_of(config_of(name, **changes)) == windows


def test_a_window_that_is_not_mentioned_has_the_default_of_transformers() -> None:
    mistral = without(config_of("mistral_full"), "sliding_window")
    assert windows_of(mistral) == (4096, 4096)
    qwen2 = config_of("qwen2_tied", use_sliding_window=True, max_window_layers=1)
    assert windows_of(qwen2) == (None, 4096)
    assert windows_of(config_of("qwen2_tied", use_sliding_window=True)) == (None, None)


@pytest.mark.parametrize(
    ("name", "changes", "field", "expected"),
    [
        ("llama_plain", {"architectures": None}, "architectures is None", "a value"),
        ("llama_plain", {"architectures": []}, "architectures is []", "a list of strings"),
        ("llama_plain", {"architectures": "LlamaForCausalLM"}, "architectures is 'Llama", "a list of strings"),
        ("llama_plain", {"hidden_size": 0}, "hidden_size is 0", "from 1 to"),
        ("llama_plain", {"hidden_size": -64}, "hidden_size is -64", "from 1 to"),
        ("llama_plain", {"hidden_size": 64.0}, "hidden_size is 64.0", "a whole number"),
        ("llama_plain", {"hidden_size": True}, "hidden_size is True", "a whole number"),
        ("llama_plain", {"hidden_size": "64"}, "hidden_size is '64'", "a whole number"),
        ("llama_plain", {"hidden_size": 62}, "hidden_size is 62", "an even multiple of num_attention_heads, 4"),
        ("llama_plain", {"hidden_size": 60}, "hidden_size is 60", "an even multiple of num_attention_heads, 4"),
        ("llama_plain", {"vocab_size": 1 << 40}, "vocab_size is 1099511627776", "from 1 to 16777216"),
        ("llama_plain", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000", "from 1 to 4096"),
        ("llama_plain", {"num_key_value_heads": 3}, "num_key_value_heads is 3", "a divisor of num_attention_heads, 4"),
        ("llama_plain", {"head_dim": 15}, "head_dim is 15", "an even number"),
        ("llama_plain", {"max_position_embeddings": None}, "max_position_embeddings is None", "a value"),
        ("llama_plain", {"rms_norm_eps": math.nan}, "rms_norm_eps is nan", "a number from 1e-30 to 1"),
        ("llama_plain", {"rms_norm_eps": 0}, "rms_norm_eps is 0", "a number from 1e-30 to 1"),
        ("llama_plain", {"rms_norm_eps": "1e-5"}, "rms_norm_eps is '1e-5'", "a number"),
        ("llama_plain", {"rope_theta": math.inf}, "rope_theta is inf", "a number from 2 to 1e+18"),
        ("llama_plain", {"rope_theta": 10**400}, "rope_theta is 1000", "a number from 2 to 1e+18"),
        ("llama_plain", {"rope_scaling": "linear"}, "rope_scaling is 'linear'", "an object or null"),
        ("llama_plain", {"tie_word_embeddings": 1}, "tie_word_embeddings is 1", "true or false"),
        ("llama_plain", {"attention_bias": "no"}, "attention_bias is 'no'", "true or false"),
        ("llama_linear", {"rope_scaling": {"type": "linear"}}, "rope_scaling.factor is missing", "a value"),
        ("llama_linear", {"rope_scaling": {"factor": 2, "type": 2}}, "rope_scaling.type is 2", "a string"),
        (
            "llama_linear",
            {"rope_scaling": {"factor": 0.5, "type": "linear"}},
            "rope_scaling.factor is 0.5",
            "from 1 to",
        ),
        ("mistral_window", {"sliding_window": 0}, "sliding_window is 0", "from 1 to"),
        ("mistral_window", {"layer_types": ["sliding_attention"]}, "layer_types is", "3 entries, not 1"),
        ("qwen2_layers", {"use_sliding_window": False}, "layer_types is", "use_sliding_window"),
        ("qwen2_layers", {"layer_types": [1, 2, 3]}, "layer_types is [1, 2, 3]", "a list of strings"),
    ],
)
def test_wrong_values(name: str, changes: dict[str, Any], field: str, expected: str) -> None:
    with pytest.raises(ConfigError) as raised:
        spec_from_config(config_of(name, **changes), WHERE)
    found, wanted, advice = str(raised.value).split("; ")
    assert found.startswith(f"{WHERE}: {field}")
    assert wanted.startswith("expected ") and expected in wanted
    assert advice


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"high_freq_factor": 1.0}, "high_freq_factor is 1.0; expected a number above low_freq_factor, 1"),
        ({"low_freq_factor": None}, "low_freq_factor is None"),
        ({"original_max_position_embeddings": 0}, "original_max_position_embeddings is 0"),
        ({"rope_type": "yarn", "beta_fast": 0.5}, "beta_fast is 0.5; expected a number not below beta_slow, 1"),
        ({"rope_type": "yarn", "attention_factor": 0}, "attention_factor is 0"),
        ({"rope_type": "yarn", "truncate": "no"}, "truncate is 'no'"),
        ({"rope_type": "yarn", "mscale": -1}, "mscale is -1"),
    ],
)
def test_wrong_rope_values(options: dict[str, Any], field: str) -> None:
    config = config_of("llama_llama3")
    config["rope_parameters"] |= options
    with pytest.raises(ConfigError, match=f"rope_parameters.{field}"):
        spec_from_config(config, WHERE)


@pytest.mark.parametrize(
    ("changes", "field", "supported"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "architectures ['GPT2LMHeadModel']", "LlamaForCausalLM, Mamba2"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'", "silu"),
        (
            {"rope_scaling": {"rope_type": "longrope"}},
            "rope_scaling.rope_type 'longrope'",
            "linear, dynamic, llama3, yarn",
        ),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5", "1.0"),
        ({"rope_parameters": {"partial_rotary_factor": 0.25}}, "rope_parameters.partial_rotary_factor 0.25", "1.0"),
        ({"head_dim": 2, "rope_scaling": {"type": "dynamic", "factor": 2}}, "head_dim 2", "above 2"),
        ({"quantization_config": {"bits": 4}}, "quantization_config {'bits': 4}", "packed by lepton"),
    ],
)
def test_unsupported_features(changes: dict[str, Any], field: str, supported: str) -> None:
    with pytest.raises(UnsupportedModelError) as raised:
        spec_from_config(config_of("llama_plain", **changes), WHERE)
    assert str(raised.value).startswith(f"{WHERE}: {field} is not supported; supported: ")
    assert supported in str(raised.value)


def test_unsupported_layer_types() -> None:
    mixed = ["sliding_attention", "full_attention", "sliding_attention"]
    with pytest.raises(UnsupportedModelError, match="sliding_attention on every layer"):
        spec_from_config(config_of("mistral_window", layer_types=mixed), WHERE)
    with pytest.raises(UnsupportedModelError, match="full_attention, sliding_attention"):
        spec_from_config(config_of("qwen2_layers", layer_types=["full_attention", "mamba", "mamba"]), WHERE)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(0, 300)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["linear", "dynamic", "llama3", "yarn", "silu", "sliding_attention", 10**400, 1e-300]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
OPTIONAL = ["head_dim", "rope_scaling", "sliding_window", "layer_types", "use_sliding_window", "max_window_layers"]
OPTIONAL += ["attention_bias", "mlp_bias", "partial_rotary_factor", "original_max_position_embeddings"]
ROPE_FIELDS = ["rope_type", "type", "factor", "original_max_position_embeddings", "low_freq_factor", "truncate"]
ROPE_FIELDS += ["high_freq_factor", "beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim"]


@st.composite
def damaged_configs(draw: st.DrawFn) -> dict[str, Any]:
    """A recipe's config in which one to three fields, some of them inside the rope object, are any JSON value."""
    config = copy.deepcopy(draw(st.sampled_from(RECIPES)).config)
    rope = next((config[name] for name in ("rope_scaling", "rope_parameters") if name in config), {})
    for _ in range(draw(st.integers(1, 3))):
        target, names = draw(st.sampled_from([(config, [*config, *OPTIONAL]), (rope, ROPE_FIELDS)]))
        target[draw(st.sampled_from(names))] = draw(JSON)
    return config


@given(damaged_configs())
def test_any_value_gives_a_sound_spec_or_one_of_our_errors(config: dict[str, Any]) -> None:
    try:
        spec = spec_from_config(config, WHERE)
    except (ConfigError, UnsupportedModelError) as error:
        assert str(error).startswith(f"{WHERE}: ")
        assert len(str(error).splitlines()) == 1 and len(str(error)) < 400
        return
    for attention in spec.attentions:
        assert attention.heads % attention.kv_heads == 0 and attention.head_dim % 2 == 0
        assert attention.window is None or attention.window > 0
    assert all(0 < math.prod(shape) < 1 << 45 for shape in spec.tensors().values())
    for rope in {attention.rope for attention in spec.attentions}:
        length = rope.scaling.attention_factor if rope.scaling else 1.0
        for start in (0, spec.context - 1):
            cos, sin = rope.tables(start, start + 1)
            np.testing.assert_allclose(np.hypot(cos, sin), length, rtol=1e-6)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_specs_survive_json(recipe) -> None:
    assert spec_from_config(json.loads(json.dumps(recipe.config)), WHERE) == spec_from_config(recipe.config, WHERE)
