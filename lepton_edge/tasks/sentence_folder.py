"""What a sentence-transformers folder says besides the model: pooling, projections, prompts and lengths.

modules.json lists the steps: the transformer, `Pooling`, and after it any of `Dense`, `Normalize`.  The folders are
those of sentence-transformers 2 to 6 (arXiv:1908.10084).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_edge.checkpoint.safetensors import SafetensorsFile
from lepton_edge.checkpoint.strict_json import brief, parse_object, read_bytes, read_object
from lepton_edge.errors import CheckpointError, ConfigError, UnsupportedModelError

__all__ = ["MODES", "SIMILARITIES", "Dense", "SentenceFolder", "read_folder"]

MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")  # in the order of their results
FLAGS = {"pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max", "pooling_mode_mean_tokens": "mean",
         "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
         "pooling_mode_weightedmean_tokens": "weightedmean", "pooling_mode_lasttoken": "lasttoken"}  # fmt: skip
SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "Sigmoid", "GELU", "SiLU")
LENGTHS = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
MAX_MODULES = 16
MAX_WIDTH = 1 << 16
MAX_TOKENS = 1 << 24


@dataclass(frozen=True, eq=False)
class Dense:
    """activation(W x + b).  weight: float32 [outputs, inputs].  bias: float32 [outputs] or None."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    activation: str


@dataclass(frozen=True, eq=False)
class SentenceFolder:
    """How states of tokens become an embedding.

    modes: kinds of pooling, whose results stand one behind the other.  include_prompt: whether the prompt's tokens are
    pooled.  steps: what follows: a Dense, or 'normalize'.  most: tokens after which a text is cut.  lower: texts are
    made lower case.  prompts, default_prompt, truncate_dim, similarity: as config_sentence_transformers.json says.
    """

    modes: tuple[str, ...] = ("mean",)
    include_prompt: bool = True
    steps: tuple[Dense | str, ...] = ()
    most: int | None = None
    lower: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    truncate_dim: int | None = None
    similarity: str = "cosine"


def read_folder(folder: Path, causal: bool, hidden: int) -> SentenceFolder:
    """The settings of a model folder; without modules.json, the mean of an encoder's states, or a decoder's last one.

    hidden: width of the states.  Raises ConfigError, CheckpointError or UnsupportedModelError, naming the file.
    """
    options: dict[str, Any] = {"modes": ("lasttoken",) if causal else ("mean",), **_lengths(folder)}
    options |= _settings(folder / "config_sentence_transformers.json")
    if not os.path.lexists(folder / "modules.json"):
        return SentenceFolder(**options)
    where = folder / "modules.json"
    kinds = _modules(where)
    if [kind for kind, _ in kinds[:2]] != ["Transformer", "Pooling"]:
        raise UnsupportedModelError(f"{where}: begins with {_names(kinds[:2])}; expected a Transformer and its Pooling")
    if kinds[0][1] not in ("", "."):
        raise UnsupportedModelError(
            f"{where}: the transformer lies in {brief(kinds[0][1])}; expected it beside modules.json; copy it there"
        )
    options["modes"], options["include_prompt"] = _pooling(_inside(folder, kinds[1][1], where) / "config.json", hidden)
    width, steps = hidden * len(options["modes"]), list[Dense | str]()
    for kind, path in kinds[2:]:
        if kind == "Dense":
            steps.append(_dense(_inside(folder, path, where), width))
            width = len(steps[-1].weight)  # type: ignore[union-attr]
        elif kind == "Normalize":
            steps.append("normalize")
        elif kind != "Dropout":
            raise UnsupportedModelError(f"{where}: has the module {brief(kind)}; expected Dense, Normalize or Dropout")
    return SentenceFolder(steps=tuple(steps), **options)


def _modules(path: Path) -> list[tuple[str, str]]:
    """The kind and the place of each module, in order."""
    found = parse_object(b'{"modules": ' + read_bytes(path, ConfigError) + b"}", path, ConfigError)["modules"]
    good = isinstance(found, list) and 2 <= len(found) <= MAX_MODULES and all(isinstance(item, dict) for item in found)
    if not good or not all(isinstance(item.get(name), str) for item in found for name in ("type", "path")):
        raise ConfigError(f"{path}: expected a list of 2 to {MAX_MODULES} modules, each with a type and a path")
    return [(item["type"].rpartition(".")[2], item["path"]) for item in found]


def _names(kinds: list[tuple[str, str]]) -> str:
    return " and ".join(kind for kind, _ in kinds)


def _inside(folder: Path, path: str, where: Path) -> Path:
    """A module's folder, which must lie in the model's."""
    if Path(path).is_absolute() or ".." in Path(path).parts or "\0" in path:
        raise ConfigError(f"{where}: the path {brief(path)} leads out of the model folder; expected one inside it")
    return folder / path


def _pooling(path: Path, hidden: int) -> tuple[tuple[str, ...], bool]:
    config = read_object(path, ConfigError)
    width = config.get("embedding_dimension", config.get("word_embedding_dimension", hidden))
    if width != hidden:
        raise ConfigError(f"{path}: is for states of width {brief(width)}, and the model's are {hidden} wide")
    named = config.get("pooling_mode")
    if named is None:
        flags = {flag: config.get(flag, False) for flag in FLAGS}
        if not all(isinstance(value, bool) for value in flags.values()):
            raise ConfigError(f"{path}: {', '.join(FLAGS)} must be true or false")
        named = [mode for flag, mode in FLAGS.items() if flags[flag]] or ["mean"]
    modes = [named] if isinstance(named, str) else named
    if not isinstance(modes, list) or not modes or not all(mode in MODES for mode in modes):
        raise UnsupportedModelError(f"{path}: pooling_mode is {brief(named)}; expected some of {', '.join(MODES)}")
    include = config.get("include_prompt", True)
    if not isinstance(include, bool):
        raise ConfigError(f"{path}: include_prompt is {brief(include)}; expected true or false")
    return tuple(modes), include


def _dense(folder: Path, width: int) -> Dense:
    path = folder / "config.json"
    config = read_object(path, ConfigError)
    inner, outer = (_count(path, name, config.get(name), MAX_WIDTH) for name in ("in_features", "out_features"))
    if inner != width:
        raise ConfigError(f"{path}: in_features is {inner}, but what comes before gives {width} numbers")
    activation = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
    inputs = config.get("module_input_name", "sentence_embedding")
    if activation not in ACTIVATIONS or config.get("use_residual", False) or inputs != "sentence_embedding":
        raise UnsupportedModelError(
            f"{path}: expected an activation of {', '.join(ACTIVATIONS)}, no residual, and sentence_embedding as input"
        )
    shapes: dict[str, tuple[int, ...]] = {"linear.weight": (outer, width)}
    shapes |= {"linear.bias": (outer,)} if config.get("bias", True) else {}
    found = _tensors(folder / "model.safetensors", shapes)
    return Dense(found["linear.weight"], found.get("linear.bias"), activation)


def _tensors(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, NDArray[np.float32]]:
    """Small tensors of a file, as float32."""
    if not path.is_file():
        raise CheckpointError(f"{path}: is missing; expected the module's weights; save it as safetensors")
    file, found = SafetensorsFile(path), {}
    try:
        for name, shape in shapes.items():
            info = file.tensors.get(name)
            if info is None or info.shape != shape or info.dtype not in ("F32", "F16", "BF16"):
                has = "nothing" if info is None else f"{info.dtype} {list(info.shape)}"
                raise CheckpointError(f"{path}: {name} is {has}; expected F32, F16 or BF16 {list(shape)}")
            raw = file.bytes(name)
            if info.dtype == "BF16":
                values = (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
            else:
                values = raw.view("<f4" if info.dtype == "F32" else "<f2").astype(np.float32)
            if not np.isfinite(values).all():
                raise CheckpointError(f"{path}: {name} has numbers that are not finite; copy the file again")
            found[name] = values.reshape(shape).copy()
    finally:
        file.close()
    return found


def _lengths(folder: Path) -> dict[str, Any]:
    """max_seq_length and do_lower_case, else the tokenizer's model_max_length."""
    for name in LENGTHS:
        path = folder / f"sentence_{name}_config.json"
        if os.path.lexists(path):
            config = read_object(path, ConfigError)
            most, lower = config.get("max_seq_length"), config.get("do_lower_case", False)
            if not isinstance(lower, bool):
                raise ConfigError(f"{path}: do_lower_case is {brief(lower)}; expected true or false")
            if most is not None:
                return {"most": _count(path, "max_seq_length", most), "lower": lower}
            return {"lower": lower, **_model_length(folder)}
    return _model_length(folder)


def _model_length(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    most = read_object(path, ConfigError).get("model_max_length") if os.path.lexists(path) else None
    if not isinstance(most, int | float) or isinstance(most, bool) or most > MAX_TOKENS:
        return {}  # transformers writes 1e30 for no limit
    return {"most": _count(path, "model_max_length", most)}


def _settings(path: Path) -> dict[str, Any]:
    """What config_sentence_transformers.json says of prompts and results."""
    config = read_object(path, ConfigError) if os.path.lexists(path) else {}
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise ConfigError(f"{path}: prompts is {brief(prompts)}; expected names and texts")
    options: dict[str, Any] = {"prompts": {name: text for name, text in prompts.items() if text is not None}}
    default = config.get("default_prompt_name")
    if default is not None and (not isinstance(default, str) or default not in prompts):
        raise ConfigError(f"{path}: default_prompt_name is {brief(default)}; expected one of {json.dumps([*prompts])}")
    options["default_prompt"] = default
    similarity = config.get("similarity_fn_name") or "cosine"
    if similarity not in SIMILARITIES:
        raise UnsupportedModelError(
            f"{path}: similarity_fn_name is {brief(similarity)}; expected one of {', '.join(SIMILARITIES)}"
        )
    options["similarity"] = similarity
    if config.get("truncate_dim") is not None:
        options["truncate_dim"] = _count(path, "truncate_dim", config["truncate_dim"])
    return options


def _count(path: Path, name: str, value: Any, most: int = MAX_TOKENS) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ConfigError(f"{path}: {name} is {brief(value)}; expected a whole number from 1 to {most}")
    return value
