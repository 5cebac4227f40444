"""config.json to spec: what is read, what is refused and how, and that no value whatever does anything else."""

import copy
import json
import math
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest
from golden import families as families_data
from golden.recipe import BY_NAME, RECIPES, tensors
from hypothesis import given
from hypothesis import strategies as st

from lepton_edge.checkpoint.store import Checkpoint
from lepton_edge.errors import ConfigError, RequestError, UnsupportedModelError
from lepton_edge.models import registry
from lepton_edge.models.registry import families, register, spec_from_config, spec_of
from lepton_edge.models.rope import RopeSpec
from lepton_edge.models.spec import Attention, FeedForward, Layer, ModelSpec, Norm
from lepton_edge.runtime import Engine

WHERE = "/models/some/config.json"
FAMILIES = families_data.BY_NAME


def config_of(name: str, **changes: Any) -> dict[str, Any]:
    """A recipe's config with some fields changed."""
    return copy.deepcopy(BY_NAME[name].config) | changes


def without(config: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != name}


def test_families() -> None:
    assert {"GPT2LMHeadModel", "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"} < set(families())
    assert families() == sorted(families())


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
    assert spec == ModelSpec(
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
        ({"hidden_act": "mish"}, "hidden_act 'mish'", "silu, swish, gelu"),
        ({"rope_scaling": {"rope_type": "spiral"}}, "rope_scaling.rope_type 'spiral'", "llama3, yarn, longrope"),
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


@pytest.mark.parametrize(
    ("architecture", "nearest"),
    [
        ("GPT2Model", "GPT2LMHeadModel"),
        ("Qwen9ForCausalLM", "Qwen3ForCausalLM"),
        ("Gemma3ForConditionalGeneration", "Gemma3ForCausalLM"),
        ("LLaMAForCausalLM", "LlamaForCausalLM"),
        ("OLMoForCausalLM", "OlmoForCausalLM"),
    ],
)
def test_an_unknown_architecture_and_the_nearest_known_ones(architecture: str, nearest: str) -> None:
    with pytest.raises(UnsupportedModelError) as raised:
        spec_from_config(config_of("llama_plain", architectures=[architecture]), WHERE)
    start, names, advice = str(raised.value).split("; ")
    assert start == f"{WHERE}: the architecture {architecture!r} is not supported"
    found = names.removeprefix("the nearest that are: ").split(", ")
    assert nearest in found and len(found) == 3 and set(found) < set(families())
    assert "lepton inspect --families" in advice


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
    config = copy.deepcopy(draw(st.sampled_from([*RECIPES, *families_data.FAMILIES])).config)
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
        assert attention.heads % attention.kv_heads == 0 and attention.head_dim > 0
        assert attention.window is None or attention.window > 0
    assert all(0 < math.prod(shape) < 1 << 45 for shape in spec.tensors().values())
    for attention in spec.attentions:
        if (rope := attention.rope) is None:
            continue
        assert rope.dim % 2 == 0 and 0 < rope.dim <= attention.head_dim
        length = rope.scaling.attention_factor if rope.scaling else 1.0
        for start in (0, spec.context - 1):
            cos, sin = rope.tables(start, start + 1)
            np.testing.assert_allclose(np.hypot(cos, sin), length, rtol=1e-6)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_specs_survive_json(recipe) -> None:
    assert spec_from_config(json.loads(json.dumps(recipe.config)), WHERE) == spec_from_config(recipe.config, WHERE)


@pytest.mark.parametrize(
    ("name", "changes", "field"),
    [
        ("gemma_mqa", {"hidden_act": "relu"}, "hidden_activation"),
        ("gemma_mqa", {"hidden_activation": "gelu"}, "hidden_activation"),
        ("gemma3", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope_parameters"),
        ("gemma3", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling.type"),
        ("olmo3", {"rope_theta": 1e4}, "rope_theta"),
        ("neox", {"rope_theta": 1e4}, "rope_theta"),
        ("neox", {"rotary_pct": None, "partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma2", {"hidden_activation": "tanh"}, "hidden_activation"),
        ("gpt2", {"activation_function": "sigmoid"}, "activation_function"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
        ("bloom", {"apply_residual_connection_post_layernorm": True}, "apply_residual_connection_post_layernorm"),
        ("mpt", {"attn_config": {"rope": True}}, "attn_config.rope"),
        ("mpt", {"attn_config": {"qk_ln": True}}, "attn_config.qk_ln"),
        ("mpt", {"attn_config": {"attn_type": "grouped_query_attention"}}, "attn_config.attn_type"),
        ("mpt", {"norm_type": "rmsnorm"}, "norm_type"),
        ("mpt", {"logit_scale": "sqrt"}, "logit_scale"),
        ("minicpm", {"num_experts": 8}, "num_experts"),
        ("minicpm", {"sparse_config": {"topk": 64}}, "sparse_config"),
        ("qwen3_gqa", {"layer_types": ["chunked_attention"] * 2}, "layer_types"),
        ("exaone4", {"sliding_window_pattern": "LGL"}, "sliding_window_pattern"),
        ("smollm3", {"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ("granite", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("gpt_oss", {"hidden_act": "gelu"}, "hidden_act"),
        ("gpt_oss", {"swiglu_limit": 10.0}, "swiglu_limit"),
        ("gpt_oss", {"swiglu_alpha": 1.0}, "swiglu_alpha"),
        ("gpt_oss", {"quantization_config": {"quant_method": "gptq"}}, "quantization_config.quant_method"),
        ("gpt_oss", {"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["mlp.experts"]}},
         "quantization_config.modules_to_not_convert"),
        ("gpt_oss", {"quantization_config": {"quant_method": "mxfp4", "bits": 3}}, "quantization_config.'bits'"),
        ("gpt_oss", {"layer_types": ["full_attention", "chunked_attention", "full_attention"]}, "layer_types"),
    ],
)
def test_unsupported_options_of_families(name: str, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(UnsupportedModelError) as raised:
        spec_from_config(FAMILIES[name].config | changes, WHERE)
    assert str(raised.value).startswith(f"{WHERE}: {field} ") and "is not supported" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "changes", "field"),
    [
        ("phi3_long", {"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0] * 4}},
         "rope_parameters.short_factor"),
        ("phi", {"partial_rotary_factor": 0.35}, "partial_rotary_factor"),
        ("neo", {"attention_types": [[["global"], 1]]}, "attention_types"),
        ("neo", {"attention_types": [["global", 1]]}, "attention_types"),
        ("gpt2", {"n_embd": 61}, "n_embd"),
        ("gpt2", {"n_head": 0}, "n_head"),
        ("smollm3_listed", {"no_rope_layers": [1, 0]}, "no_rope_layers"),
        ("falcon_40b", {"num_kv_heads": 3}, "num_kv_heads"),
        ("gemma2", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar"),
        ("gemma2", {"layer_types": ["sliding_attention"] * 3, "sliding_window": 0},
         "sliding_window"),
        ("cohere", {"logit_scale": "big"}, "logit_scale"),
        ("gpt_oss", {"quantization_config": "mxfp4"}, "quantization_config"),
        ("gpt_oss", {"quantization_config": {"bits": 4}}, "quantization_config.quant_method"),
        ("gpt_oss", {"num_experts_per_tok": 6}, "num_experts_per_tok"),
        ("gpt_oss", {"sliding_window": 0}, "sliding_window"),
        ("olmo", {"clip_qkv": 0.0}, "clip_qkv"),
        ("olmoe", {"clip_qkv": 0}, "clip_qkv"),
        ("gemma2", {"attn_logit_softcapping": 0.0}, "attn_logit_softcapping"),
        ("gemma2", {"final_logit_softcapping": 0.0}, "final_logit_softcapping"),
        ("qwen2_moe", {"layer_types": ["sliding_attention"] * 4}, "layer_types"),
        ("ministral3", {"rope_parameters": {"rope_type": "default", "original_max_position_embeddings": 8}},
         "rope_parameters.llama_4_scaling_beta"),
        ("ministral3", {"rope_parameters": {"llama_4_scaling_beta": 0.1, "rope_type": "yarn", "factor": 2.0}},
         "rope_parameters.original_max_position_embeddings"),
    ],
)  # fmt: skip
def test_wrong_values_of_families(name: str, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=f"{WHERE}: {field} "):
        spec_from_config(FAMILIES[name].config | changes, WHERE)


def test_joined_rows_that_cannot_be_packed_apart(tmp_path) -> None:
    family = families_data.Family("phi3", FAMILIES["phi3"].config | {"intermediate_size": 90})
    match = pytest.raises(UnsupportedModelError, match="several matrices of 90 rows; q4 needs a multiple of 16")
    with Checkpoint.open(families_data.write_folder(family, tmp_path / "model")) as checkpoint, match:
        Engine.load(checkpoint, spec_of(checkpoint), format="q4", threads=1)


def test_minicpm_is_a_llama_that_scales() -> None:
    config = config_of("llama_plain") | {"architectures": ["MiniCPMForCausalLM"], "scale_emb": 12, "scale_depth": 1.4}
    spec = spec_from_config(config | {"dim_model_base": 16}, WHERE)
    residual = 1.4 / 2**0.5
    assert spec.embed_scale == pytest.approx(12 / residual) and spec.logit_scale == 16 / 64
    assert spec.norm.eps == pytest.approx(1e-5 / residual**2)


def test_gemma_says_gelu_and_means_its_approximation() -> None:
    named = [spec_from_config(without(FAMILIES["gemma_mqa"].config, "hidden_activation") | {"hidden_act": act}, WHERE)
             for act in ("gelu", "gelu_pytorch_tanh", None)]  # fmt: skip
    assert named[0] == named[1] == named[2]
    assert named[0].layers[0].feed_forward.activation == "gelu_tanh"


def test_a_family_of_another_package(monkeypatch) -> None:
    monkeypatch.setattr(registry, "READERS", dict(registry.READERS))
    register("MineForCausalLM", registry.READERS["LlamaForCausalLM"])
    config = config_of("llama_plain")
    assert spec_from_config(config | {"architectures": ["MineForCausalLM"]}, WHERE) == spec_from_config(config, WHERE)
    assert "MineForCausalLM" in families()
    with pytest.raises(RequestError, match="there already"):
        register("MineForCausalLM", registry.READERS["LlamaForCausalLM"])
    entry = EntryPoint("TheirsForCausalLM", "lepton_edge.models.llama:read", registry.ENTRY_POINTS)
    monkeypatch.setattr(registry, "entry_points", lambda **wanted: [entry])
    theirs = spec_from_config(config | {"architectures": ["TheirsForCausalLM"]}, WHERE)
    assert theirs == spec_from_config(config, WHERE) and "TheirsForCausalLM" in families()
