"""Language models inside your own program, on your own machine.

>>> import lepton_edge as lepton
>>> model = lepton.load()
>>> print(model.generate("Once upon a time"))

What is not needed is not imported: `import lepton_edge` itself takes a few milliseconds.
"""

from typing import TYPE_CHECKING, Any

from lepton_edge.errors import (
    Cancelled,
    CheckpointError,
    ConfigError,
    ContextLengthError,
    LeptonError,
    MachineError,
    ModelError,
    RequestError,
    TokenizerError,
    UnsupportedModelError,
)
from lepton_edge.version import __version__

if TYPE_CHECKING:
    from lepton_edge.api import Model, Piece, load
    from lepton_edge.models.registry import register

__all__ = [
    "Cancelled",
    "CheckpointError",
    "ConfigError",
    "ContextLengthError",
    "LeptonError",
    "MachineError",
    "Model",
    "ModelError",
    "Piece",
    "RequestError",
    "TokenizerError",
    "UnsupportedModelError",
    "__version__",
    "load",
    "register",
]


def __getattr__(name: str) -> Any:
    if name == "register":
        from lepton_edge.models.registry import register

        return register
    if name not in ("Model", "Piece", "load"):
        raise AttributeError(f"module 'lepton_edge' has no attribute {name!r}")
    from lepton_edge import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return __all__
