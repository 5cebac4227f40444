"""An adapter folder against a model: every tensor of the file has its place, and every place its tensor."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..checkpoint.safetensors import SafetensorsFile
from ..checkpoint.store import FORMAT_OF_DTYPE, Weight
from ..checkpoint.stored import Stored
from ..checkpoint.strict_json import brief
from ..errors import CheckpointError, UnsupportedModelError
from ..models.spec import ModelSpec, Names
from ..quant.formats import get_format
from .config import AdapterConfig, read_config
from .delta import Adapter, Delta, Floats

__all__ = ["read_adapter"]

FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."  # PEFT's own, before every name
TABLES = ("embed", "head")
# How the names of a module's LoRA tensors end -> what they are here: of a linear map, and of an embedding.
LINEAR = {".lora_A.weight": "a", ".lora_B.weight": "b", ".lora_magnitude_vector": "magnitude"}
EMBEDDING = {".lora_embedding_A": "a", ".lora_embedding_B": "b", ".lora_magnitude_vector": "magnitude"}
SHOWN = 4  # problems in a message


@dataclass(frozen=True)
class Place:
    """A tensor of the model: the part that it is, its shape, and its module, as transformers names it."""

    part: str
    layer: int | None
    shape: tuple[int, ...]
    module: str

    @property
    def is_embedding(self) -> bool:
        """Whether it is a table of rows that are looked up."""
        return self.part in ("embed", "positions")

    @property
    def is_linear(self) -> bool:
        """Whether it is the weight of a linear map, the output head left out."""
        others = (*TABLES, "positions", "q_norm", "k_norm")
        return len(self.shape) == 2 and "." not in self.part and self.part not in others

    @property
    def can_change(self) -> bool:
        """Whether LoRA of it can be run: not that of experts."""
        return self.part in TABLES or (self.is_linear and "@" not in self.part)


def read_adapter(folder: Path, spec: ModelSpec, names: Names) -> Adapter:
    """The adapter in a folder, for a model.

    spec: the model's.  names: transformers' own, where the model's checkpoint leaves out their first word.
    Raises ConfigError or UnsupportedModelError for its config, CheckpointError for tensors that do not fit.
    """
    config = read_config(folder)
    path = folder / FILE
    if not os.path.exists(path) and os.path.exists(folder / "adapter_model.bin"):
        raise CheckpointError(f"{path}: is missing, and adapter_model.bin may hold code; save it as safetensors")
    with SafetensorsFile(path) as file:
        return _Reader(file, config, spec, names).read()


class _Reader:
    """Sorts the tensors of a file, and finds what is missing or left over.

    places: the model's tensors by transformers' names.  weights: those of them that are weights, by their modules.
    """

    def __init__(self, file: SafetensorsFile, config: AdapterConfig, spec: ModelSpec, names: Names) -> None:
        self.file, self.config, self.spec, self.names = file, config, spec, names
        shapes = spec.every_part()
        if spec.tied:
            shapes["head", None] = shapes["embed", None]
        full = {key: names.name(*key) for key in shapes}
        self.places = {full[key]: Place(*key, shape, full[key].rpartition(".")[0]) for key, shape in shapes.items()}
        self.weights = {place.module: place for name, place in self.places.items() if name.endswith(".weight")}
        self.changed: dict[str, dict[str, str]] = {}  # module -> what -> name in the file
        self.stored: dict[str, str] = {}  # transformers' name of a tensor that is replaced -> name in the file
        self.problems: list[str] = []

    def read(self) -> Adapter:
        """The adapter; CheckpointError that lists what does not fit."""
        for name in self.file.tensors:
            if not self._sort(name):
                self.problems.append(f"{brief(name)} is nothing that adapter_config.json and this model know")
        self._check_changed()
        self._check_targets()
        self._check_stored()
        if self.problems:
            more = f" and {len(self.problems) - SHOWN} more" if len(self.problems) > SHOWN else ""
            raise self._error(f"{'; '.join(self.problems[:SHOWN])}{more}")
        spec, renamed = self._untied()
        places = {module: self.weights[module] for module in self.changed}
        deltas = {(place.part, place.layer): self._delta(place) for place in places.values()}
        return Adapter(self.file.path.parent, spec, deltas, self._tensors(spec), renamed)

    # -- what is there -----------------------------------------------------------------------------------------------

    def _sort(self, stored: str) -> bool:
        """Put a name of the file where it belongs; whether it belongs anywhere."""
        name = stored.removeprefix(PREFIX)
        if name == stored:
            return False
        for end, kind in (LINEAR | EMBEDDING).items():
            place = self.weights.get(name.removesuffix(end))
            if name.endswith(end) and place is not None:
                ends = EMBEDDING if place.is_embedding else LINEAR
                return end in ends and self.changed.setdefault(place.module, {}).setdefault(kind, stored) == stored
        name = name.replace(".base_layer.", ".")
        place = self.places.get(name)
        if place is None:
            return False
        bias = name.endswith(".bias") and self.config.bias != "none"
        # PEFT stores the tables, too, where one of them is changed or has got more rows.
        if not (bias or place.part in TABLES or self.config.is_saved(place.module)):
            return False
        return self.stored.setdefault(name, stored) == stored

    def _check_changed(self) -> None:
        """Each module has all of its LoRA tensors, and can be run with them."""
        kinds = {"a", "b", "magnitude"} if self.config.dora else {"a", "b"}
        for module, found in self.changed.items():
            if not self.weights[module].can_change:
                raise UnsupportedModelError(
                    f"{self.file.path}: LoRA of {module} is not supported; supported: linear maps, the embedding, "
                    "the output head; use an adapter without it"
                )
            if found.keys() != kinds:
                wrong = ", ".join(sorted(found.keys() ^ kinds))
                self.problems.append(f"{module} has too few or too many LoRA tensors ({wrong})")

    def _check_targets(self) -> None:
        """The modules are those that the config means."""
        if self.config.targets is None:
            return
        for module, place in self.weights.items():
            # Routers are linear maps in some versions of transformers only.
            if place.can_change and place.part != "router":
                meant = self.config.is_target(module, place.is_linear)
                if meant != (module in self.changed):
                    state = "lacks" if meant else "has"
                    self.problems.append(f"{module} {state} LoRA, other than target_modules say")

    def _check_stored(self) -> None:
        """Everything is there that the config says is stored."""
        config, modules = self.config, {place.module for place in self.places.values()}
        wanted = {name for name, place in self.places.items() if config.is_saved(place.module)}
        if config.bias == "all":
            wanted |= {name for name in self.places if name.endswith(".bias")}
        self.problems += [f"{name} is missing" for name in sorted(wanted - self.stored.keys())]
        for end in config.saved:
            alone = replace(config, saved=(end,))
            if not any(map(alone.is_saved, modules)):
                self.problems.append(f"modules_to_save has {brief(end)}, which this model has not")

    # -- what it says ------------------------------------------------------------------------------------------------

    def _untied(self) -> tuple[ModelSpec, dict[str, str]]:
        """The model's spec, and how it names tensors in another way: two tables where the adapter makes them two."""
        spec = self.spec
        modules = {place.module for place in self._tables()}
        if not spec.tied or not any(name in self.changed or self.config.is_saved(name) for name in modules):
            return spec, {}
        if self.config.tying:
            raise UnsupportedModelError(
                f"{self.config.where}: ensure_weight_tying true is not supported where the embedding or the head is "
                "changed; supported: false; use an adapter without it"
            )
        old, own = spec.names.name("embed"), dict(spec.names.modules)
        if own["embed"] == own["head"]:
            own["embed"] = self.names.modules["embed"]
        names = replace(spec.names, modules=own)
        untied = replace(spec, tied=False, names=names)
        return untied, {names.name(part): old for part in TABLES}

    def _tables(self) -> list[Place]:
        """The embedding and the output head."""
        return [place for place in self.weights.values() if place.part in TABLES]

    def _tensors(self, spec: ModelSpec) -> dict[str, Weight]:
        """What replaces tensors of the model, by the names of `spec`."""
        weights = [self._tensor(self.places[name], stored, spec) for name, stored in self.stored.items()]
        found = {weight.name: weight for weight in weights}
        if self.spec.tied:
            # What is not the adapter's own, but stored as it was in training, is one table for both.
            places = {place.part: place for place in self._tables()}
            shared = {part: found.pop(spec.names.name(part), None) for part in TABLES}
            own = {part for part in TABLES if self.config.is_saved(places[part].module)}
            both = [weight for part, weight in shared.items() if weight is not None and part not in own]
            if len(both) == 2 and not np.array_equal(both[0].data, both[1].data):
                raise self._error("it stores two tables, but the model's embedding and output head are one")
            for part in TABLES if not spec.tied else ("embed",):
                weight = shared[part] if part in own else next(iter(both), None)
                if weight is not None:
                    found[spec.names.name(part)] = weight
        return found

    def _delta(self, place: Place) -> Delta:
        found, rank = self.changed[place.module], self.config.rank_of(place.module)
        rows, columns = place.shape[::-1] if place.is_embedding else place.shape
        a, b = self._floats(found["a"], (rank, columns)), self._floats(found["b"], (rows, rank))
        magnitude = self._floats(found["magnitude"], (rows,)) if self.config.dora else None
        return Delta(a, b * np.float32(self.config.scaling_of(place.module)), magnitude)

    def _tensor(self, place: Place, stored: str, spec: ModelSpec) -> Weight:
        """A tensor in place of the model's, in memory of its own."""
        how = spec.names.stored.get(place.part, Stored())
        if how.turns or how.mxfp4:
            raise self._error(
                f"{stored} replaces a tensor that {spec.family} stores in an order of its own, which is not supported; "
                "train without it in modules_to_save"
            )
        turned = how.transposed
        values = self._floats(stored, place.shape[::-1] if turned else place.shape)
        format = get_format(FORMAT_OF_DTYPE[self.file.tensors[stored].dtype])
        values = (values.T if turned else values).reshape(-1, place.shape[-1])
        return Weight(spec.names.name(place.part, place.layer), format.name, place.shape, format.pack(values))

    def _floats(self, name: str, shape: tuple[int, ...]) -> Floats:
        """A tensor of the file as float32 of this shape."""
        info = self.file.tensors[name]
        if info.shape != shape or info.dtype not in FORMAT_OF_DTYPE:
            raise self._error(f"{name} is {info.dtype} {list(info.shape)}, expected {list(shape)} of f32, f16 or bf16")
        values = Weight(name, FORMAT_OF_DTYPE[info.dtype], shape, self.file.bytes(name)).to_f32()
        if not np.isfinite(values).all():
            raise self._error(f"{name} has values that are NaN or infinite")
        return values

    def _error(self, problem: str) -> CheckpointError:
        return CheckpointError(
            f"{self.file.path}: does not fit the model, or is incomplete: {problem}; was it made for this model?"
        )
