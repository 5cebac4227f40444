"""Mixtures of experts: configs and folders that are wrong, and that nothing is read but the chosen experts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden.families import BY_NAME, Family, tensors, token_ids
from golden.recipe import _write_safetensors

from lepton_edge.checkpoint.store import Checkpoint, Weight
from lepton_edge.errors import CheckpointError, ConfigError, UnsupportedModelError
from lepton_edge.models.registry import spec_from_config, spec_of
from lepton_edge.models.spec import Experts
from lepton_edge.program import build_program
from lepton_edge.quant.formats import get_format
from lepton_edge.runtime import Engine
from lepton_edge.runtime.memory import aligned_zeros

WHERE = "/models/some/config.json"


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("mixtral", {"num_local_experts": 0}, "num_local_experts is 0; expected a whole number from 1"),
        ("mixtral", {"num_local_experts": "6"}, "num_local_experts is '6'; expected a whole number"),
        ("mixtral", {"num_local_experts": 1 << 20}, "num_local_experts is 1048576; expected .* to 4096"),
        ("mixtral", {"num_experts_per_tok": 0}, "num_experts_per_tok is 0; expected a whole number from 1"),
        ("mixtral", {"num_experts_per_tok": 7}, "num_experts_per_tok is 7; expected at most num_local_experts, 6"),
        ("mixtral", {"num_experts_per_tok": True}, "num_experts_per_tok is True; expected a whole number"),
        ("mixtral", {"intermediate_size": -4}, "intermediate_size is -4; expected a whole number from 1"),
        ("qwen3_moe", {"num_experts": 1}, "num_experts_per_tok is 2; expected at most num_experts, 1"),
        ("qwen3_moe", {"moe_intermediate_size": 0}, "moe_intermediate_size is 0"),
        ("qwen3_moe", {"norm_topk_prob": "yes"}, "norm_topk_prob is 'yes'; expected true or false"),
        ("qwen3_moe", {"mlp_only_layers": [3]}, "mlp_only_layers is .*; expected numbers of layers, from 0 to 2"),
        ("qwen3_moe", {"mlp_only_layers": [True]}, "mlp_only_layers is .*; expected numbers of layers"),
        ("qwen3_moe", {"mlp_only_layers": 1}, "mlp_only_layers is 1; expected a list"),
        ("qwen3_moe", {"decoder_sparse_step": 0}, "decoder_sparse_step is 0; expected a whole number from 1"),
        ("qwen2_moe", {"shared_expert_intermediate_size": 0}, "shared_expert_intermediate_size is 0"),
        ("olmoe", {"num_experts": None, "num_experts_per_tok": 65}, "num_experts_per_tok is 65; .* num_experts, 64"),
        ("granitemoe", {"num_local_experts": 2.0}, "num_local_experts is 2.0; expected a whole number"),
    ],
)  # fmt: skip
def test_wrong_configs(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{WHERE}: {message}"):
        spec_from_config(BY_NAME[name].config | changes, WHERE)


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe"])
@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"scoring_func": "sigmoid"}, "scoring_func"),
        ({"topk_method": "noaux_tc"}, "topk_method"),
        ({"routed_scaling_factor": 2.5}, "routed_scaling_factor"),
        ({"n_group": 4}, "n_group"),
        ({"hidden_act": "mish"}, "hidden_act"),
    ],
)
def test_other_routers_are_refused(name: str, changes: dict[str, Any], field: str) -> None:
    """Fields of DeepSeek's router: a folder that has them was not made for a softmax over all experts."""
    with pytest.raises(UnsupportedModelError, match=f"^{WHERE}: {field} .* is not supported; supported: "):
        spec_from_config(BY_NAME[name].config | changes, WHERE)


@pytest.mark.parametrize(
    ("name", "tensor", "shape", "message"),
    [
        ("mixtral", "model.layers.1.block_sparse_moe.experts.5.w1.weight", None, r"missing: \S*experts.5.w1.weight"),
        ("mixtral", "model.layers.0.block_sparse_moe.gate.weight", (5, 48), r"gate.weight is \[5, 48\]"),
        ("mixtral", "model.layers.0.block_sparse_moe.experts.2.w2.weight", (40, 48), r"w2.weight is \[40, 48\]"),
        ("qwen2_moe", "model.layers.1.mlp.shared_expert_gate.weight", None, r"missing: \S*shared_expert_gate.weight"),
        ("granitemoe", "model.layers.0.block_sparse_moe.input_linear.weight", (6, 48, 48), r"\[6, 48, 48\], .*\[6, 9"),
        ("granitemoe", "model.layers.1.block_sparse_moe.output_linear.weight", (5, 48, 48), r"\[5, 48, 48\], .*\[6, 4"),
    ],
)  # fmt: skip
def test_wrong_tensors(name: str, tensor: str, shape: tuple[int, ...] | None, message: str, tmp_path: Path) -> None:
    held = dict(tensors(BY_NAME[name]))
    del held[tensor]
    if shape is not None:
        held[tensor] = np.zeros(shape, np.float32)
    (tmp_path / "config.json").write_text(json.dumps(BY_NAME[name].config))
    _write_safetensors(tmp_path / "model.safetensors", held, "F32")
    with Checkpoint.open(tmp_path) as checkpoint, pytest.raises(CheckpointError, match=message):
        spec_of(checkpoint)


class Source:
    """A family's weights in memory that can be written to, and how often each was asked for."""

    def __init__(self, family: Family, format: str) -> None:
        self.spec = spec_from_config(family.config, WHERE)
        self.held, self.asked = {}, dict.fromkeys(self.spec.tensors(), 0)
        matrices = self.spec.matrices()
        for name, values in tensors(family):
            kind = get_format(format if name in matrices else "f32")
            packed = kind.pack(values.reshape(-1, values.shape[-1]))
            data = aligned_zeros(len(packed))
            data[:] = packed
            self.held[name] = Weight(name, kind.name, values.shape, data)

    def weight(self, name: str) -> Weight:
        self.asked[name] += 1
        return self.held[name]

    def require(self, expected: dict) -> None:
        assert expected == self.spec.tensors()

    def check_unchanged(self) -> None:
        pass


@pytest.mark.parametrize("format", ["f32", "q4"])
@pytest.mark.parametrize("name", ["mixtral", "granitemoe", "qwen3_moe"])
def test_only_the_chosen_experts_are_read(name: str, format: str) -> None:
    """NaN in an expert's weights leaves every bit as it was, but for the `top_k` that a token chose in each layer."""
    source = Source(BY_NAME[name], format)
    engine = Engine.load(source, source.spec, threads=2)
    try:
        slot = engine.open()

        def step() -> np.ndarray:
            engine.truncate(slot, 0)
            return engine.forward(token_ids(BY_NAME[name])[:1], [slot], [0], [0])

        right = step()
        assert np.isfinite(right).all()
        assert engine.program.tables
        for table in engine.program.tables:
            layer, weights = source.spec.layers[int(table.split()[1])].feed_forward, engine.program.weights_of(table)
            assert isinstance(layer, Experts) and len(weights) == layer.count
            harmed = 0
            for weight in weights:
                kept = weight.data.copy()
                weight.data[:] = 0xFF  # NaN as float32 and, in the scales, as float16
                found = step()
                weight.data[:] = kept
                harmed += bool(np.isnan(found).any())
                assert np.isnan(found).all() or np.array_equal(found, right)
            assert harmed == layer.top_k, table
    finally:
        engine.close()


def test_a_stack_of_experts_is_asked_for_once() -> None:
    """Random weights are made anew, and a conversion would be done again, for each expert."""
    source = Source(BY_NAME["granitemoe"], "q4")
    build_program(source.spec, source.weight, "f16", 64)
    assert {source.asked[name] for name in source.asked if "linear" in name} == {1}
