"""Every architecture against transformers: golden logits, chunks, batches, packed weights. The families are data.

Tolerances: f32 is what the project promises, 1e-5 relative; packed weights are held against the reference executor on
the same weights, with the bound that test_formats.py derives (int8 activations in each of 4 L + 1 products).
"""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from golden.encoders import ENCODERS
from golden.families import BY_NAME, FAMILIES, Family, checksum, load, tensors, token_ids, write_folder
from golden.recipe import _write_safetensors
from golden.seq2seq import PAIRS

from lepton_edge.checkpoint.store import Checkpoint
from lepton_edge.models.registry import families, spec_from_config, spec_of
from lepton_edge.program.reference import Reference
from lepton_edge.quant.quantize import quantize_folder
from lepton_edge.runtime import Engine

TOLERANCE, SLACK, INT8 = 1e-5, 2.0, 0.0075
GOLDEN = cache(load)
ELSEWHERE = {
    "Lfm2ForCausalLM", "LlamaForCausalLM", "Mamba2ForCausalLM", "MambaForCausalLM", "MistralForCausalLM",
    "Qwen2ForCausalLM", "RwkvForCausalLM",
}  # in recipe.py  # fmt: skip
# transformers does not have these: see test_rwkv.py, and tests/tools/test_import_ctranslate2.py
WITHOUT_GOLDEN = {"RWKV7ForCausalLM", "CTranslate2Transformer"}


@pytest.fixture
def folder(family: Family, tmp_path: Path) -> Path:
    return write_folder(family, tmp_path / family.name)


@pytest.fixture
def engine(folder: Path) -> Iterator[Engine]:
    with Checkpoint.open(folder) as checkpoint:
        engine = Engine.load(checkpoint, spec_of(checkpoint), threads=1)
        yield engine
        engine.close()


def feed(engine: Engine | Reference, slot: int, ids: np.ndarray, chunk: int) -> np.ndarray:
    """The logits of all tokens, appended to a sequence `chunk` at a time."""
    rows = []
    for start in range(0, len(ids), chunk):
        part, first = ids[start : start + chunk], engine.length(slot)
        rows.append(engine.forward(part, [slot] * len(part), range(first, first + len(part)), range(len(part))))
    return np.concatenate(rows)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(b.astype(np.float64)))


each_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


def test_every_architecture_is_here() -> None:
    found = {case.config["architectures"][0] for case in (*FAMILIES, *PAIRS)} | {case.architecture for case in ENCODERS}
    assert found | ELSEWHERE | WITHOUT_GOLDEN == {
        name for name in families() if not name.startswith("Rnn")  # see test_rnn.py
    }


@each_family
def test_logits_are_those_of_transformers(family: Family, engine: Engine) -> None:
    """In one go, one by one, and in a batch with another sequence."""
    golden, (noise, check), ids = GOLDEN()[family.name], GOLDEN()[f"{family.name} about"], token_ids(family)
    assert int(check) == checksum(family), "the family changed: run tools/make_golden.py families"
    assert noise < 3e-6
    whole = feed(engine, engine.open(), ids, len(ids))
    assert relative(whole, golden) <= TOLERANCE
    assert relative(feed(engine, engine.open(), ids, 1), golden) <= TOLERANCE
    a, b = engine.open(), engine.open()
    n, m = len(ids), len(ids) // 2
    slots, positions = [a] * n + [b] * m, [*range(n), *range(m)]
    order = np.argsort(np.array(positions), kind="stable")
    both = np.concatenate([ids, ids[::-1][:m]])
    found = np.empty((n + m, whole.shape[1]), np.float32)
    found[order] = engine.forward(both[order], np.array(slots)[order], np.array(positions)[order], range(n + m))
    assert relative(found[:n], whole) <= TOLERANCE
    assert relative(found[n:], feed(engine, engine.open(), ids[::-1][:m], m)) <= TOLERANCE


@each_family
@pytest.mark.parametrize("format", ["q8", "q4"])
def test_packed(family: Family, folder: Path, format: str, tmp_path: Path) -> None:
    """A packed folder runs without copies of its matrices, and as its own weights say."""
    with Checkpoint.open(folder) as checkpoint:
        spec = spec_of(checkpoint)
        quantize_folder(folder, tmp_path / "packed", format, matrices=spec.matrices(), stored=spec.stored())
    ids = token_ids(family)[:24]
    with Checkpoint.open(tmp_path / "packed") as checkpoint:
        engine = Engine.load(checkpoint, spec_of(checkpoint), threads=1, kv_dtype="f32")
        try:
            for weight in engine.program.weights.values():
                name = weight.name.partition("[")[0]
                assert np.shares_memory(weight.data, checkpoint.bytes(name)), f"{name} was copied"
            found = feed(engine, engine.open(), ids, len(ids))
            steps = feed(engine, engine.open(), ids, 1)
            plain = Reference(engine.program, engine.spec)
            expected = feed(plain, plain.open(), ids, len(ids))
        finally:
            engine.close()
    bound = SLACK * np.sqrt(4 * len(engine.spec.layers) + 1) * INT8
    assert relative(found, expected) <= bound
    assert relative(steps, expected) <= bound


def test_transposed_matrices_in_f16_stay_as_they_are_stored(tmp_path: Path) -> None:
    """GPT-2's lie as [inputs, outputs]: only packing turns them round."""
    family = BY_NAME["gpt2"]
    folder = write_folder(family, tmp_path / "model")
    with Checkpoint.open(folder) as checkpoint:
        spec = spec_of(checkpoint)
        name = spec.names.name("qkv", 0)
        assert checkpoint.info(name).shape == (60, 180) and checkpoint.shape(name) == (180, 60)
        values = checkpoint.weight(name).to_f32()
    names = dict(matrices=spec.matrices(), stored=spec.stored())
    quantize_folder(folder, tmp_path / "half", "f16", **names)
    quantize_folder(folder, tmp_path / "mixed", "q8", keep=["c_attn=f16"], **names)
    for made in ("half", "mixed"):
        with Checkpoint.open(tmp_path / made) as checkpoint:
            assert spec_of(checkpoint) == spec and checkpoint.info(name).shape == (60, 180)
            np.testing.assert_array_equal(checkpoint.weight(name).to_f32(), values.astype(np.float16))


def test_an_mpt_without_alibi_is_a_gpt2(tmp_path: Path) -> None:
    """transformers runs every MPT with ALiBi and without biases; a GPT-2 of the same tensors has what it leaves out."""
    gpt2 = BY_NAME["gpt2_exact"]
    config = {"architectures": ["MPTForCausalLM"], "model_type": "mpt", "d_model": 60, "n_heads": 5, "n_layers": 2,
              "vocab_size": 61, "max_seq_len": 64, "no_bias": False, "attn_config": {"alibi": False},
              "logit_scale": "inv_sqrt_d_model"}  # fmt: skip
    ours, theirs = spec_from_config(config, "mpt"), gpt2.spec
    stored = dict(tensors(gpt2))
    named = {}
    for mine, same in zip(ours.tensors().items(), theirs.tensors().items(), strict=True):
        values = stored[same[0]].T if same[0] in theirs.stored() else stored[same[0]]
        assert values.shape == mine[1] == same[1]
        named[mine[0]] = np.ascontiguousarray(values)
    (tmp_path / "config.json").write_text(json.dumps(config))
    _write_safetensors(tmp_path / "model.safetensors", named, "F32")
    ids = token_ids(gpt2)
    with Checkpoint.open(tmp_path) as checkpoint:
        engine = Engine.load(checkpoint, spec_of(checkpoint), threads=1)
        found = feed(engine, engine.open(), ids, len(ids))
        engine.close()
    assert relative(found * 60**0.5, GOLDEN()["gpt2_exact"]) <= TOLERANCE


@pytest.mark.parametrize("format", ["f32", "q8"])
@pytest.mark.parametrize("name", ["neox", "phi", "gemma2", "olmo2", "bloom", "mpt_odd", "qwen3_gqa", "phi3",
                                  "opt_350m", "ministral3"])  # fmt: skip
def test_threads_do_not_matter(name: str, format: str, tmp_path: Path) -> None:
    """Every order of parts and norms, in one go and in small steps: bit by bit what one thread gives."""
    ids, found = token_ids(BY_NAME[name])[:12], []
    with Checkpoint.open(write_folder(BY_NAME[name], tmp_path / name)) as checkpoint:
        for threads in (1, 3):
            engine = Engine.load(checkpoint, spec_of(checkpoint), format=format, threads=threads, kv_dtype="f32")
            found.append([feed(engine, engine.open(), ids, chunk) for chunk in (12, 1)])
            engine.close()
    for one, three in zip(*found, strict=True):
        np.testing.assert_array_equal(one, three)
