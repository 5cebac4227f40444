"""adapter_config.json: what PEFT says of an adapter, every option of it read, refused, or known to change nothing."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint.strict_json import brief, read_object
from ..errors import ConfigError, UnsupportedModelError
from ..models.fields import Fields

__all__ = ["AdapterConfig", "read_config"]

NAME = "adapter_config.json"
READ = {
    "peft_type", "task_type", "r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "bias",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save",
    "init_lora_weights", "ensure_weight_tying", "fan_in_fan_out",
}  # fmt: skip
# How it was trained, or where from: nothing that is computed here depends on it.
UNUSED = {
    "auto_mapping", "base_model_name_or_path", "revision", "peft_version", "inference_mode", "lora_dropout",
    "megatron_core", "runtime_config", "eva_config", "qalora_group_size",
}  # fmt: skip
# Starts of a training that leave the model's own weights as they are; PiSSA, OLoRA, CorDA and LoftQ change them.
STARTS = (True, False, "gaussian", "eva", "orthogonal", "mica")
MAX_RANK, MAX_PATTERNS = 1 << 14, 1 << 16
MAX_TARGETS, MAX_WORDS = 1 << 14, 256  # each is compared with every module
PLAIN = re.compile(r"[\w.-]*")  # a pattern that is a name; its dots mean themselves
MAX_PATTERN, MAX_EXPRESSIONS = 500, 64
ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class AdapterConfig:
    """An adapter's options, checked.

    targets: names of modules or their ends, `all-linear`, or None for a regular expression: the stored tensors say
    then which modules it meant.  layers: the only ones that `targets` means, or all.  layers_pattern: what comes before
    their numbers in names.  saved: ends of the names of modules that the adapter replaces.
    tying: whether embedding and output head shall stay one table.
    """

    where: Path
    rank: int
    alpha: float
    ranks: "Patterns"
    alphas: "Patterns"
    rslora: bool
    dora: bool
    bias: str
    targets: str | tuple[str, ...] | None
    excluded: "tuple[str, ...] | re.Pattern[str]"
    layers: frozenset[int] | None
    layers_pattern: tuple[str, ...]
    saved: tuple[str, ...]
    tying: bool

    def rank_of(self, module: str) -> int:
        """r of a module."""
        return int(self.ranks.get(module, self.rank))

    def scaling_of(self, module: str) -> float:
        """The factor of b a: alpha / r, or alpha / sqrt(r) (rank-stabilized LoRA, arXiv:2312.03732)."""
        rank = self.rank_of(module)
        return self.alphas.get(module, self.alpha) / (rank**0.5 if self.rslora else rank)

    def is_target(self, module: str, linear: bool) -> bool:
        """Whether `targets` names a module; linear: `all-linear` means it, too.  Not to be asked where it is None."""
        assert self.targets is not None
        if isinstance(self.excluded, re.Pattern):
            if self.excluded.fullmatch(module):
                return False
        elif _ends(module, self.excluded):
            return False
        if self.is_saved(module):
            return False
        if isinstance(self.targets, str):
            return linear
        if module in self.targets or not _ends(module, self.targets):
            return module in self.targets
        return self.layers is None or self._layer(module) in self.layers

    def is_saved(self, module: str) -> bool:
        """Whether `modules_to_save` has a module, or one that it is a part of."""
        ends = [match.start() for match in re.finditer(r"\.|$", module)]
        return any(module[:end].endswith(self.saved) for end in ends) if self.saved else False

    def _layer(self, module: str) -> int | None:
        names = [re.escape(name) for name in self.layers_pattern] or [r"[^.]*"]
        for name in names:
            if match := re.match(rf"(?:^|.*?\.){name}\.([0-9]{{1,9}})\.", module):
                return int(match[1])
        return None


class Patterns:
    """Values for modules by patterns of their names, of which the first that fits counts.

    A pattern is a regular expression for a module's name or its last words, as PEFT has them.
    """

    def __init__(self, values: dict[str, float], where: str) -> None:
        self._plain = {text: (order, values[text]) for order, text in enumerate(values) if PLAIN.fullmatch(text)}
        others = [(order, text) for order, text in enumerate(values) if text not in self._plain]
        if len(others) > MAX_EXPRESSIONS:
            raise UnsupportedModelError(
                f"{where} has {len(others)} regular expressions; supported: {MAX_EXPRESSIONS}; name the modules"
            )
        self._others = [
            (order, expression(rf"(.*\.)?({text})$", text, where), values[text]) for order, text in others
        ]  # fmt: skip

    def get(self, module: str, default: float) -> float:
        """The value of a module."""
        ends = [module, *(module[dot.end() :] for dot in re.finditer(r"\.", module))]
        found = [self._plain[end] for end in ends if end in self._plain]
        found += [(order, value) for order, expression, value in self._others if expression.match(module)]
        return min(found)[1] if found else default


def expression(whole: str, text: str, where: str) -> re.Pattern[str]:
    """The regular expression `whole`, around `text` of a file.

    UnsupportedModelError where `text` could make matching a name take for ever: few repeats, none of a group.
    """
    plain = re.sub(r"\\[^0-9]", "x", text)
    plain = re.sub(r"\[[^\]]*\]", "x", plain)
    repeats = re.findall(r"[*+?{]", plain.replace("(?:", "(").replace("*?", "*"))
    counts = len(repeats), plain.count("("), plain.count("|")
    tame = len(text) <= MAX_PATTERN and not re.search(r"\\|\)[*+?{]|\(\?[^:]", plain)
    if not tame or any(count > most for count, most in zip(counts, (3, 3, 40), strict=True)):
        raise UnsupportedModelError(
            f"{where}: the regular expression {brief(text)} is not supported: it may take for ever; supported: names, "
            "and expressions with at most three repeats, none of them of a group; list the modules' names"
        )
    try:
        return re.compile(whole)
    except (re.error, RecursionError, OverflowError) as cause:
        raise ConfigError(f"{where}: {brief(text)} is no regular expression ({cause}); expected names") from None


def read_config(folder: Path) -> AdapterConfig:
    """The options of an adapter folder.

    Raises ConfigError for a damaged file, UnsupportedModelError for what lepton_edge does not have.
    """
    path = folder / NAME
    if not os.path.exists(path):
        raise ConfigError(f"{path}: is missing; expected a PEFT LoRA folder ({NAME}, adapter_model.safetensors)")
    values = read_object(path, ConfigError)
    fields = Fields(values, str(path))
    _refuse_others(fields, values, str(path))
    layers = _numbers(fields, values)
    targets = _targets(fields, values)
    if targets is None and layers is not None:
        raise fields.error("layers_to_transform", "null beside target_modules that is a regular expression")
    bias = fields.text("bias", default="none")
    if bias not in ("none", "all", "lora_only"):
        raise fields.unsupported("bias", "none, all, lora_only")
    excluded = values.get("exclude_modules")
    rank, alpha = fields.integer("r", 1, MAX_RANK), fields.number("lora_alpha", -1e6, 1e6, default=8)
    ranks, alphas = fields.child("rank_pattern"), fields.child("alpha_pattern")
    return AdapterConfig(
        where=path, rank=rank, alpha=alpha, rslora=fields.flag("use_rslora", default=False),
        ranks=Patterns({text: ranks.integer(text, 1, MAX_RANK) for text in _keys(fields, values, "rank_pattern")},
                       f"{path}: rank_pattern"),
        alphas=Patterns({text: alphas.number(text, -1e6, 1e6) for text in _keys(fields, values, "alpha_pattern")},
                        f"{path}: alpha_pattern"),
        dora=fields.flag("use_dora", default=False), bias=bias, targets=targets,
        excluded=expression(excluded, excluded, f"{path}: exclude_modules") if isinstance(excluded, str)
        else _words(fields, values, "exclude_modules", MAX_TARGETS),
        layers=layers, layers_pattern=_words(fields, values, "layers_pattern"),
        saved=_words(fields, values, "modules_to_save"), tying=fields.flag("ensure_weight_tying", default=False),
    )  # fmt: skip


def _refuse_others(fields: Fields, values: dict[str, Any], where: str) -> None:
    """UnsupportedModelError for the first option that would change what is computed and that lepton_edge lacks."""
    if fields.text("peft_type") != "LORA":
        raise fields.unsupported("peft_type", "LORA")
    if fields.has("task_type") and fields.text("task_type") != "CAUSAL_LM":
        raise fields.unsupported("task_type", "CAUSAL_LM")
    start = values.get("init_lora_weights", True)
    if start is not None and not any(start is known or (isinstance(known, str) and start == known) for known in STARTS):
        hint = "as which PEFT saves the others when it is told path_initial_model_for_weight_conversion"
        raise fields.unsupported("init_lora_weights", f"{', '.join(map(str, STARTS))}, {hint}")
    fields.flag("fan_in_fan_out", default=False)  # says how the model stores a matrix, which its own config says, too
    for name, value in values.items():
        if name not in READ | UNUSED and value not in (None, False, [], {}, ""):
            raise UnsupportedModelError(
                f"{where}: {name} {brief(value)} is not supported; supported: null; use an adapter without it"
            )


def _targets(fields: Fields, values: dict[str, Any]) -> str | tuple[str, ...] | None:
    target = values.get("target_modules")
    if isinstance(target, str):
        return ALL_LINEAR if target.lower() == ALL_LINEAR else None
    if target is None:
        return None  # PEFT took the family's usual ones
    return _words(fields, values, "target_modules", MAX_TARGETS)


def _words(fields: Fields, values: dict[str, Any], name: str, most: int = MAX_WORDS) -> tuple[str, ...]:
    """A string, or a list of at most so many strings that may be empty or null."""
    value = values.get(name)
    if value is None:
        return ()
    items = [value] if isinstance(value, str) else fields.items(name, [])
    if not all(isinstance(item, str) and item for item in items):
        raise fields.error(name, "a list of names")
    if len(items) > most:
        raise fields.error(name, f"at most {most} names")
    return tuple(items)


def _numbers(fields: Fields, values: dict[str, Any]) -> frozenset[int] | None:
    value = values.get("layers_to_transform")
    if value is None or value == []:
        return None
    items = value if isinstance(value, list) else [value]
    if not all(type(item) is int and item >= 0 for item in items):
        raise fields.error("layers_to_transform", "a list of whole numbers")
    return frozenset(items)


def _keys(fields: Fields, values: dict[str, Any], name: str) -> Iterable[str]:
    """The patterns of an object, which may be missing."""
    found = values.get(name) or {}
    if len(found) > MAX_PATTERNS:
        raise fields.error(name, f"at most {MAX_PATTERNS} patterns")
    return found


def _ends(module: str, names: tuple[str, ...]) -> bool:
    """Whether one of `names` is the module's, or its last words."""
    return module in names or module.endswith(tuple(f".{name}" for name in names))
