"""What `merge_folder` writes beside right logits (test_logits.py): files, dtypes, and nothing when it fails."""

import json
from pathlib import Path

import numpy as np
import pytest
from golden.adapters import BY_NAME, Case, tensors, write_adapter
from golden.recipe import write_folder

from lepton_edge.adapters.merge import merge_folder
from lepton_edge.checkpoint.store import INDEX, Checkpoint
from lepton_edge.errors import CheckpointError, RequestError
from lepton_edge.models.registry import spec_of
from lepton_edge.quant.quantize import quantize_folder

BF16 = Case("half", "llama_bf16", dict(r=3, lora_alpha=6, target_modules=["o_proj"]), {"o_proj": 3})


def test_dtypes_shards_and_files_are_the_models(tmp_path: Path) -> None:
    """bf16 in two shards: what is merged is rounded once, and all else is as it was, bit by bit."""
    base, adapter = write_folder("llama_bf16", tmp_path / "base"), write_adapter(BF16, tmp_path / "adapter", "BF16")
    seen: list[tuple[int, int]] = []
    changed = merge_folder(base, adapter, tmp_path / "out", lambda done, total, _: seen.append((done, total)))
    names = [f"model.layers.{i}.self_attn.o_proj.weight" for i in range(2)]
    assert changed == names and seen[-1][0] == seen[-1][1]
    assert json.loads((tmp_path / "out" / INDEX).read_text())["weight_map"] == (
        json.loads((base / INDEX).read_text())["weight_map"])  # fmt: skip
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "out" / file).read_bytes() == (base / file).read_bytes()
    stored = tensors(BF16)
    with Checkpoint.open(base) as old, Checkpoint.open(tmp_path / "out") as new:
        assert new.config == old.config and new.names == old.names
        for name in old.names:
            assert new.info(name).dtype == "BF16" and new.path(name).name == old.path(name).name
            if name not in names:
                np.testing.assert_array_equal(new.bytes(name), old.bytes(name))
                continue
            key = f"base_model.model.{name.removesuffix('.weight')}.lora_"
            # The factors are stored in bf16, too: they and the sum have 8 bits of mantissa.
            a, b = (stored[f"{key}{x}.weight"] for x in "AB")
            exact = old.weight(name).to_f32() + 2.0 * b @ a
            found = new.weight(name).to_f32()
            assert np.linalg.norm(found - exact) <= 2**-7 * np.linalg.norm(exact)
            assert np.linalg.norm(found - exact) > 1e-4 * np.linalg.norm(exact)


def test_untied_tables_are_two_afterwards(tmp_path: Path) -> None:
    case = BY_NAME["tied_dora"]
    adapter = write_adapter(case, tmp_path / "adapter")
    merge_folder(write_folder(case.base, tmp_path / "base"), adapter, tmp_path / "out")
    with Checkpoint.open(tmp_path / "out") as checkpoint:
        assert checkpoint.config["tie_word_embeddings"] is False and not spec_of(checkpoint).tied
        both = [checkpoint.weight(name).to_f32() for name in ("model.embed_tokens.weight", "lm_head.weight")]
        assert both[0].shape == both[1].shape and not np.allclose(*both, atol=0.1)


def test_failures_leave_nothing(tmp_path: Path) -> None:
    case = BY_NAME["patterns"]
    base, adapter = write_folder(case.base, tmp_path / "base"), write_adapter(case, tmp_path / "adapter")
    with pytest.raises(RequestError, match="exists already"):
        merge_folder(base, adapter, base)
    quantize_folder(base, tmp_path / "packed", "q4")
    with pytest.raises(CheckpointError, match="is packed"):
        merge_folder(tmp_path / "packed", adapter, tmp_path / "out")

    def stop(done: int, total: int, name: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge_folder(base, adapter, tmp_path / "out", stop)
    with pytest.raises(CheckpointError, match="does not fit"):
        merge_folder(write_folder("llama_mqa", tmp_path / "other"), adapter, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base", "other", "packed"]
