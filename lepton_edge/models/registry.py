"""Which architectures lepton_edge runs, by the name that config.json gives them."""

from collections.abc import Callable, Mapping
from typing import Any

from ..checkpoint.store import Checkpoint
from . import llama, mamba, mistral, qwen2
from .fields import Fields
from .spec import DecoderSpec

__all__ = ["families", "spec_from_config", "spec_of"]

READERS: dict[str, Callable[[Fields], DecoderSpec]] = {
    "LlamaForCausalLM": llama.read,
    "Mamba2ForCausalLM": mamba.read2,
    "MambaForCausalLM": mamba.read,
    "MistralForCausalLM": mistral.read,
    "Qwen2ForCausalLM": qwen2.read,
}


def families() -> list[str]:
    """The architectures that can be run, as config.json names them."""
    return sorted(READERS)


def spec_from_config(config: Mapping[str, Any], where: str) -> DecoderSpec:
    """The model that a parsed config.json describes; `where` is the file's path, for messages.

    Raises ConfigError for a value that is wrong, and UnsupportedModelError for a sound config of another architecture
    or with a feature that lepton_edge lacks.
    """
    fields = Fields(config, where)
    architecture = fields.texts("architectures")[0]
    if architecture not in READERS:
        raise fields.unsupported("architectures", ", ".join(families()))
    return READERS[architecture](fields)


def spec_of(checkpoint: Checkpoint) -> DecoderSpec:
    """The model in an open folder, all of whose tensors have been found there with the right shapes.

    Raises ConfigError, UnsupportedModelError, or a CheckpointError that lists every tensor that is missing or wrong.
    """
    spec = spec_from_config(checkpoint.config, str(checkpoint.folder / "config.json")).with_tensors(checkpoint.names)
    checkpoint.require(spec.tensors())
    return spec
