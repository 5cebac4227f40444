"""`lepton inspect` on a small folder."""

import json
from pathlib import Path

import numpy as np
import pytest
from golden.rnn import write_folder
from safetensors.numpy import save_file

import lepton_edge
from lepton_edge.cli import main
from lepton_edge.kernels.ops import ALWAYS
from lepton_edge.models.registry import families, spec_from_config

CONFIG = {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "sliding_window": 16,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A small Mistral folder: matrices in f16, norms in f32, and one tensor that the model does not use."""
    shapes = spec_from_config(CONFIG, "config.json").tensors()
    tensors = {
        name: np.full(shape, 0.5, np.float16 if len(shape) == 2 else np.float32) for name, shape in shapes.items()
    }
    tensors["rotary.inv_freq"] = np.ones(4, np.float32)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path


def shown(capsys, *arguments: str) -> str:
    assert main(["inspect", *arguments]) == 0
    return capsys.readouterr().out


def test_the_summary(folder, capsys) -> None:
    lines = dict(line.split(None, 1) for line in shown(capsys, str(folder)).rstrip("\n").split("\n"))
    assert lines["family"] == "mistral (MistralForCausalLM)"
    assert lines["parameters"] == "21,664 in 21 tensors; 1 more are not used"
    assert lines["weights"] == "43.6 KB, 16.12 bits a parameter: f16 99.3%, f32 0.7%"
    assert lines["files"] == "model.safetensors"
    assert lines["layers"] == "2 of width 32, feed-forward 64 (silu)"
    assert lines["attention"] == "4 heads, 2 for keys and values, 8 wide; window 16"
    assert lines["vocabulary"] == "48, apart from the output head"
    assert lines["context"] == "128 tokens; rope theta 10000"
    assert lines["cache"] == "128 B a token at 16 bits"


def test_the_summary_of_a_recurrent_encoder_decoder(tmp_path, capsys) -> None:
    shown_lines = shown(capsys, str(write_folder("gru_pair", tmp_path / "pair"))).rstrip("\n").split("\n")
    lines = dict(line.split(None, 1) for line in shown_lines)
    assert lines["parameters"] == "32,057 in 20 tensors"
    assert lines["layers"] == "2 of width 36: 2 Rnn"
    assert lines["vocabulary"] == "61"
    assert lines["context"] == "8192 tokens in a state of one size"
    assert lines["decoder"] == "layers 2 of width 36: 2 Rnn; vocabulary 23"


def test_the_tensors(folder, capsys) -> None:
    lines = shown(capsys, str(folder), "--tensors").rstrip("\n").split("\n")
    assert lines[0].split() == ["tensor", "shape", "format", "size"]
    assert len(lines) == 2 + 22
    assert max(map(len, lines)) <= 80
    assert ["model.embed_tokens.weight", "48x32", "f16", "3.1", "KB"] in [line.split() for line in lines]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_program_is_the_one_that_runs(folder, capsys, dtype) -> None:
    shapes = spec_from_config(CONFIG, "config.json").tensors()
    save_file({name: np.ones(shape, dtype) for name, shape in shapes.items()}, folder / "model.safetensors")
    lines = shown(capsys, str(folder), "--program").rstrip("\n").split("\n")
    assert max(map(len, lines)) <= 80
    with lepton_edge.load(folder) as model:
        program = model.engine.program
    assert [line.split()[1] for line in lines[2 : 2 + len(program.rows)]] == [row.op for row in program.rows]
    bits = np.dtype(dtype).itemsize * 8
    assert lines[2].split() == ["0", f"embed_f{bits}", "embed", "48x32", *lines[2].split()[4:6], "->x"]
    assert lines[9].split()[1:3] + lines[9].split()[-1:] == [f"matmul_f{bits}", "L0", "att->+x"]
    barriers = sum(row.barrier == ALWAYS for row in program.rows)
    assert f"{len(program.rows)} operations, {barriers} barriers in a step of one token" in lines


def test_the_families(capsys) -> None:
    found = shown(capsys, "--families").split()
    assert found == families() and {"LlamaForCausalLM", "MixtralForCausalLM", "RwkvForCausalLM"} < set(found)


def test_a_folder_that_lacks_tensors(folder, capsys) -> None:
    save_file({"model.norm.weight": np.ones(32, np.float32)}, folder / "model.safetensors")
    assert main(["inspect", str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"lepton: error: {folder}") and "lm_head.weight" in error and error.count("\n") == 1


def test_no_folder(capsys) -> None:
    assert main(["inspect", "no/such/folder"]) == 2
    assert "no/such/folder" in capsys.readouterr().err
