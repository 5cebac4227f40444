"""LoRA folders for small models of `recipe.py` and `families.py`, filled by a formula, as data.

tools/make_golden.py writes them, has PEFT load them, and stores the logits in adapters.npz; it refuses a folder whose
tensors are not exactly those that PEFT would save.
"""

import json
import math
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lepton_edge.models.registry import spec_from_config

from . import families, recipe
from .recipe import GOLDEN, _hash, _normal, _write_safetensors

LENGTH = 20


@dataclass(frozen=True)
class Case:
    """One adapter.  base: the model's name.  options: of its config.  lora: ends of modules -> rank.  saved: names of
    tensors that it replaces, with what PEFT puts before their last word."""

    name: str
    base: str
    options: dict[str, Any]
    lora: dict[str, int]
    saved: dict[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()

    @property
    def model(self) -> dict[str, Any]:
        """The base's config.json."""
        return (recipe.BY_NAME.get(self.base) or families.BY_NAME[self.base]).config

    @property
    def config(self) -> dict[str, Any]:
        """adapter_config.json."""
        shared = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "inference_mode": True, "lora_dropout": 0.1,
                  "base_model_name_or_path": None, "init_lora_weights": True}  # fmt: skip
        return shared | self.options

    @property
    def tokens(self) -> np.ndarray:
        """Of the golden run, int32 [LENGTH]."""
        return (_hash(f"{self.name}/tokens", LENGTH) % np.uint64(self.model["vocab_size"])).astype(np.int32)


ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
BIASES = {".self_attn.q_proj.bias": ".base_layer", ".self_attn.k_proj.bias": ".base_layer",
          ".self_attn.v_proj.bias": ".base_layer", ".self_attn.o_proj.bias": ".base_layer"}  # fmt: skip

CASES = [
    Case("patterns", "llama_bias", dict(
        r=4, lora_alpha=6, use_rslora=True, target_modules=[*ATTENTION, "gate_proj", "down_proj"], bias="all",
        rank_pattern={"q_proj": 7, "layers.1.mlp.down_proj": 3},
        alpha_pattern={r".*\.[kv]_proj": 2.5, "1.self_attn.q_proj": 9},
    ), {
        "q_proj": 7, "layers.1.mlp.down_proj": 3, "k_proj": 4, "v_proj": 4, "o_proj": 4, "gate_proj": 4, "down_proj": 4,
    }, saved=BIASES | {
        ".mlp.gate_proj.bias": ".base_layer", ".mlp.down_proj.bias": ".base_layer", ".mlp.up_proj.bias": "",
    }),
    Case("dora_saved", "llama_bias", dict(
        r=5, lora_alpha=10, use_dora=True, target_modules="all-linear",
        modules_to_save=["embed_tokens", "lm_head", "model.norm"],
    ), dict.fromkeys([*ATTENTION, *MLP], 5), saved={
        "embed_tokens.weight": "", "lm_head.weight": "", "model.norm.weight": "",
    }),
    Case("tied_dora", "llama_smollm", dict(
        r=6, lora_alpha=3, use_dora=True, target_modules=["embed_tokens", "lm_head", "v_proj"],
    ), {"embed_tokens": 6, "lm_head": 6, "v_proj": 6}, saved={
        "embed_tokens.weight": ".base_layer", "lm_head.weight": ".base_layer",
    }),
    Case("tied_saved", "llama_head8", dict(
        r=3, lora_alpha=12, target_modules=["up_proj", "o_proj"], layers_to_transform=[1],
        modules_to_save=["embed_tokens"],
    ), {"layers.1.mlp.up_proj": 3, "layers.1.self_attn.o_proj": 3}, saved={"embed_tokens.weight": ""}),
    Case("phi3", "phi3", dict(
        r=6, lora_alpha=12, target_modules=r".*\.(qkv_proj|gate_up_proj|down_proj|o_proj)",
    ), {"qkv_proj": 6, "gate_up_proj": 6, "down_proj": 6, "o_proj": 6}),
    Case("gpt2", "gpt2_bare", dict(
        r=4, lora_alpha=8, target_modules=["c_attn", "c_proj", "c_fc"], exclude_modules=["h.0.mlp.c_proj"],
        use_dora=True, fan_in_fan_out=True, bias="lora_only", modules_to_save=["ln_f"],
    ), {"c_attn": 4, "c_proj": 4, "c_fc": 4}, without=("h.0.mlp.c_proj",), saved={
        ".ln_f.weight": "", ".ln_f.bias": "", "attn.c_attn.bias": ".base_layer", "attn.c_proj.bias": ".base_layer",
        "mlp.c_fc.bias": ".base_layer", "h.1.mlp.c_proj.bias": ".base_layer",
    }),
    Case("gemma3", "gemma3", dict(
        r=5, lora_alpha=5, target_modules=["embed_tokens", "v_proj", "down_proj"],
    ), {"embed_tokens": 5, "v_proj": 5, "down_proj": 5}, saved={"embed_tokens.weight": ".base_layer"}),
]  # fmt: skip
BY_NAME = {case.name: case for case in CASES}


def tensors(case: Case) -> dict[str, np.ndarray]:
    """Every tensor of adapter_model.safetensors, float32."""
    spec, made = spec_from_config(case.model, case.base), {}
    shapes = spec.tensors()
    if spec.tied:
        shapes["lm_head.weight"] = shapes[spec.names.name("embed")]
    turned = {name for name, how in spec.stored().items() if how.transposed}
    stored = base_tensors(case) if any(before for before in case.saved.values()) else {}
    for name, shape in shapes.items():
        module, _, kind = name.rpartition(".")
        here = f"base_model.model.{module}"
        rank = next((r for end, r in case.lora.items() if module.endswith(end)), 0)
        if rank and kind == "weight" and not module.endswith(case.without or "\0"):
            table = "embed" in name
            rows, columns = shape[::-1] if table else shape
            a, b = (f".lora_embedding_{x}" if table else f".lora_{x}.weight" for x in "AB")
            made[here + a] = _normal(f"{case.name}/{name}/a", rank * columns).reshape(rank, columns)
            made[here + b] = 0.3 * _normal(f"{case.name}/{name}/b", rows * rank).reshape(rows, rank)
            if not table:
                made[here + a] /= math.sqrt(columns)
            if case.options.get("use_dora"):
                made[here + ".lora_magnitude_vector"] = 1.3 + 0.2 * _normal(f"{case.name}/{name}/m", rows)
        for end, before in case.saved.items():
            if name.endswith(end):
                normal = _normal(f"{case.name}/{name}", math.prod(shape)).reshape(shape)
                scale = 1 / math.sqrt(shape[-1]) if len(shape) == 2 else 0.3
                values = normal * scale + (1.0 if len(shape) == 1 and kind == "weight" else 0.0)
                if kind == "weight" and before:
                    values = stored[name]
                made[f"{here}{before}.{kind}"] = values.T if name in turned else values
    return {name: np.ascontiguousarray(values, dtype=np.float32) for name, values in made.items()}


def base_tensors(case: Case) -> dict[str, np.ndarray]:
    """The model's own tensors; of a tied one, the head is the embedding."""
    found = dict(
        recipe.tensors(recipe.BY_NAME[case.base]) if case.base in recipe.BY_NAME
        else families.tensors(families.BY_NAME[case.base])
    )  # fmt: skip
    if "model.embed_tokens.weight" in found:
        found.setdefault("lm_head.weight", found["model.embed_tokens.weight"])
    return found


def checksum(case: Case) -> int:
    """CRC-32 of all that the golden logits depend on, but for the base."""
    total = zlib.crc32(json.dumps([case.config, case.base], sort_keys=True).encode())
    total = zlib.crc32(case.tokens.astype("<i4").tobytes(), total)
    for name, values in tensors(case).items():
        total = zlib.crc32(name.encode() + values.astype("<f4").tobytes(), total)
    return total


def load() -> dict[str, np.ndarray]:
    """What make_golden.py stored: for each case its logits float32 [T, V], and `NAME about`, [noise, checksum]."""
    with np.load(GOLDEN / "adapters.npz") as stored:
        return dict(stored)


def write_base(case: Case, path: Path) -> Path:
    """Writes the model's folder to `path` and returns it."""
    if case.base in recipe.BY_NAME:
        return recipe.write_folder(case.base, path)
    return families.write_folder(families.BY_NAME[case.base], path)


def write_adapter(case: Case, path: Path, dtype: str = "F32", **options: Any) -> Path:
    """Writes the adapter's folder to `path` and returns it; `options` change its config."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "adapter_config.json").write_text(json.dumps(case.config | options, indent=1), encoding="utf-8")
    _write_safetensors(path / "adapter_model.safetensors", tensors(case), dtype)
    return path
