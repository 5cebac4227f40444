"""Adapter folders that are wrong, incomplete, or ask for what is not there: each is refused, and says why."""

import json
from pathlib import Path

import numpy as np
import pytest
from golden.adapters import BY_NAME, tensors, write_adapter
from golden.recipe import BY_NAME as RECIPES
from golden.recipe import _write_safetensors

from lepton_edge.adapters import Adapter, read_adapter
from lepton_edge.adapters.config import Patterns
from lepton_edge.errors import CheckpointError, ConfigError, ModelError, UnsupportedModelError
from lepton_edge.models.registry import spec_from_config

CASE = BY_NAME["patterns"]
LAYER = "base_model.model.model.layers.1."


def read(folder: Path, base: str = CASE.base) -> Adapter:
    spec = spec_from_config(RECIPES[base].config, base)
    return read_adapter(folder, spec, spec.names)


def test_ranks_and_scalings(tmp_path: Path) -> None:
    """The first pattern that fits counts; rank-stabilized: alpha / sqrt(r)."""
    deltas, stored = read(write_adapter(CASE, tmp_path)).deltas, tensors(CASE)
    for (part, layer), module, scaling in (
        (("q", 0), "0.self_attn.q_proj", 6 / 7**0.5), (("q", 1), "1.self_attn.q_proj", 9 / 7**0.5),
        (("k", 1), "1.self_attn.k_proj", 2.5 / 2), (("down", 1), "1.mlp.down_proj", 6 / 3**0.5),
    ):  # fmt: skip
        b = stored[f"base_model.model.model.layers.{module}.lora_B.weight"]
        np.testing.assert_allclose(deltas[part, layer].b, b * scaling, rtol=1e-6)


def test_the_first_pattern_that_fits_counts() -> None:
    """Names and expressions, in the order of the file; a name means whole words."""
    values = {"q_proj": 1, "1.q_proj": 2, r".*[kv]_proj": 3, "k_proj": 4, "^o_proj": 5, "layers.1.x": 6}
    patterns = Patterns(values, "")
    modules = ("layers.1.q_proj", "layers.11.k_proj", "layers.0.o_proj", "o_proj", "layers.11.x", "seq_proj", "v_proj")
    assert [patterns.get(module, 0) for module in modules] == [1, 3, 0, 5, 0, 0, 3]
    assert Patterns({"1.q_proj": 2, "q_proj": 1}, "").get("layers.1.q_proj", 0) == 2
    assert Patterns({"k_proj": 4, r".*[kv]_proj": 3}, "").get("k_proj", 0) == 4


@pytest.mark.parametrize(("option", "value", "error"), [
    ("peft_type", "LOHA", UnsupportedModelError), ("task_type", "SEQ_CLS", UnsupportedModelError),
    ("target_parameters", ["mlp.experts.gate_up_proj"], UnsupportedModelError),
    ("trainable_token_indices", [3], UnsupportedModelError), ("layer_replication", [[0, 2]], UnsupportedModelError),
    ("megatron_config", {"a": 1}, UnsupportedModelError), ("lora_bias", True, UnsupportedModelError),
    ("use_qalora", True, UnsupportedModelError), ("alora_invocation_tokens", [1], UnsupportedModelError),
    ("init_lora_weights", "pissa", UnsupportedModelError), ("init_lora_weights", 1, UnsupportedModelError),
    ("loftq_config", {"loftq_bits": 4}, UnsupportedModelError), ("an_option_of_tomorrow", 2, UnsupportedModelError),
    ("bias", "some", UnsupportedModelError), ("r", 0, ConfigError), ("r", True, ConfigError),
    ("lora_alpha", "8", ConfigError),
    ("rank_pattern", {"q_proj": -1}, ConfigError), ("target_modules", [3], ConfigError),
    ("target_modules", ["q"] * 20_000, ConfigError), ("modules_to_save", ["q"] * 300, ConfigError),
    ("layers_pattern", ["q"] * 300, ConfigError),
    ("rank_pattern", {f"a+{i}": 1 for i in range(65)}, UnsupportedModelError),
    ("rank_pattern", {"(a+)+": 3}, UnsupportedModelError), ("alpha_pattern", {"(.|.)" * 9: 3}, UnsupportedModelError),
    ("alpha_pattern", {"[": 3}, ConfigError), ("layers_to_transform", ["1"], ConfigError),
    ("exclude_modules", r"(?=a)", UnsupportedModelError), ("use_dora", 1, ConfigError),
])  # fmt: skip
def test_options_that_are_wrong_or_unknown(option: str, value: object, error: type[ModelError], tmp_path: Path) -> None:
    with pytest.raises(error, match=option):
        read(write_adapter(CASE, tmp_path, **{option: value}))


@pytest.mark.parametrize("value", [None, False, [], {}])
def test_an_unknown_option_that_is_off_changes_nothing(value: object, tmp_path: Path) -> None:
    assert len(read(write_adapter(CASE, tmp_path, an_option_of_tomorrow=value)).deltas) == 12


def test_tensors_that_do_not_fit(tmp_path: Path) -> None:
    stored = tensors(CASE)
    name = f"{LAYER}self_attn.q_proj.lora_A.weight"

    def refused(match: str, options: dict | None = None, **changed: np.ndarray | None) -> None:
        here = {key: values for key, values in (stored | changed).items() if values is not None}
        write_adapter(CASE, tmp_path, **(options or {}))
        _write_safetensors(tmp_path / "adapter_model.safetensors", here, "F32")
        with pytest.raises(ModelError, match=match):
            read(tmp_path)

    refused(r"layers\.1\.self_attn\.q_proj has too few or too many LoRA tensors \(a\)", **{name: None})
    refused(r"q_proj\.lora_A\.weight is F32 \[7, 65\], expected \[7, 64\]", **{name: np.zeros((7, 65), np.float32)})
    refused("NaN or infinite", **{name: np.full((7, 64), np.inf, np.float32)})
    refused("'stray' is nothing", stray=np.zeros(3, np.float32))
    refused(r"'base_model\.model\.model\.layers\.2", **{name.replace("layers.1", "layers.2"): stored[name]})
    refused(r"up_proj lacks LoRA, other than target_modules say", dict(target_modules="all-linear"))
    refused(r"gate_proj has LoRA, other than target_modules say", dict(target_modules=["q_proj", "k_proj"]))
    refused(r"layers\.0\.self_attn\.q_proj has LoRA", dict(layers_to_transform=[1]))
    refused(r"up_proj\.bias is missing", **{f"{LAYER}mlp.up_proj.bias": None})
    refused(r"bias' is nothing that", dict(bias="none"))
    refused(r"LoRA tensors \(magnitude\)", dict(use_dora=True))
    refused(r"lm_head\.weight is missing", dict(modules_to_save=["lm_head"]))
    refused("modules_to_save has 'score'", dict(modules_to_save=["score"]))
    embedding = f"{PREFIX}embed_tokens.lora_A.weight", np.zeros((4, 90), np.float32)
    refused("embed_tokens", **dict([embedding]))


PREFIX = "base_model.model.model."


def test_files_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"adapter_config.json"):
        read(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="is missing"):
        read(tmp_path / ("x" * 5000))
    (write_adapter(CASE, tmp_path) / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="as safetensors"):
        read(tmp_path)


def test_another_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"does not fit the model.*expected \[7, 64\]|does not fit the model"):
        read(write_adapter(CASE, tmp_path), "llama_mqa")


def test_a_tied_model_whose_tables_shall_stay_tied(tmp_path: Path) -> None:
    case = BY_NAME["tied_dora"]
    with pytest.raises(UnsupportedModelError, match="ensure_weight_tying"):
        read(write_adapter(case, tmp_path, ensure_weight_tying=True), case.base)


def test_unsloths_expression_is_not_needed(tmp_path: Path) -> None:
    """A regular expression of modules is not evaluated: the stored tensors say which it meant."""
    text = r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|k_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:mlp))"
    assert len(read(write_adapter(CASE, tmp_path, target_modules=text)).deltas) == 12
    assert json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"] == text
