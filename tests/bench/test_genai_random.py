"""The folder that onnxruntime-genai's builder gets holds the whole model, and nothing is left of a failure."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import genai_random
from lepton_edge.checkpoint import Checkpoint
from lepton_edge.cli.shapes import SHAPES
from lepton_edge.models.registry import spec_of

SIZES = dict(vocab_size=40, hidden_size=64, intermediate_size=96, num_hidden_layers=2)
SMALL = {**SHAPES["qwen2.5-0.5b"], **SIZES, "num_attention_heads": 2, "num_key_value_heads": 1}


def test_the_folder_is_a_checkpoint_in_bf16(tmp_path):
    genai_random.write_hugging_face(SMALL, tmp_path)
    checkpoint = Checkpoint.open(tmp_path)
    spec = spec_of(checkpoint)
    assert (len(spec.layers), spec.hidden, spec.vocab) == (2, 64, 40)
    checkpoint.require(spec.tensors())
    weight = checkpoint.weight("model.layers.1.mlp.down_proj.weight")
    assert (weight.format, weight.shape) == ("bf16", (64, 96))
    values = (weight.data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    # The mean square of 6144 normal values is off by sqrt(2 / 6144) = 2% at one sigma; bf16 rounds by 0.4%.
    assert abs(96 * np.mean(values**2) - 1) < 0.1
    config = json.loads((tmp_path / "config.json").read_text())
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    assert tokenizer["model"]["vocab"]["</s>"] == config["eos_token_id"]


def builder(folder: Path, code: int) -> Path:
    """A program in place of Python that writes what it was given into its output folder, and exits with `code`."""
    program = folder / "python"
    program.write_text(
        f"#!{sys.executable}\nimport os, sys\nfrom pathlib import Path\n"
        "source, target = (Path(sys.argv[sys.argv.index(flag) + 1]) for flag in ('-i', '-o'))\n"
        "target.mkdir()\n(target / 'seen').write_text(' '.join(sorted(os.listdir(source))))\n"
        f"sys.stderr.write(os.environ['HF_HUB_OFFLINE'])\nsys.exit({code})\n"
    )
    program.chmod(0o755)
    return program


@pytest.mark.skipif(sys.platform == "win32", reason="starts a script by its first line")
def test_the_model_has_its_name_once_it_is_complete(tmp_path):
    out = tmp_path / "models" / "small"
    with pytest.raises(subprocess.CalledProcessError) as error:
        genai_random.write(SMALL, builder(tmp_path, 3), out)
    assert error.value.stderr == "1"
    assert list(out.parent.iterdir()) == []
    for _ in range(2):  # the second one takes the place of the first
        genai_random.write(SMALL, builder(tmp_path, 0), out)
    assert (out / "seen").read_text() == "config.json model.safetensors tokenizer.json tokenizer_config.json"
    assert list(out.parent.iterdir()) == [out]


def test_the_builder_is_asked_for_int4_on_the_cpu():
    command = genai_random.builder_command(Path("python"), Path("a"), Path("b"), Path("c"))
    assert command[:7] == ["python", "-m", "onnxruntime_genai.models.builder", "-i", "a", "-o", "b"]
    assert " ".join(command[7:]) == "-p int4 -e cpu -c c --extra_options prune_lm_head=true"
