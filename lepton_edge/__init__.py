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
    TemplateError,
    TokenizerError,
    UnsupportedModelError,
)
from lepton_edge.version import __version__

if TYPE_CHECKING:
    from lepton_edge.api import LeptonModel, Model, Piece, load
    from lepton_edge.generate.chat import Answer, ChatPiece, ToolCall
    from lepton_edge.models.registry import register
    from lepton_edge.tasks.ensemble import Ensemble

__all__ = [
    "Answer",
    "Cancelled",
    "ChatPiece",
    "CheckpointError",
    "ConfigError",
    "ContextLengthError",
    "Ensemble",
    "LeptonError",
    "LeptonModel",
    "MachineError",
    "Model",
    "ModelError",
    "Piece",
    "RequestError",
    "TemplateError",
    "TokenizerError",
    "ToolCall",
    "UnsupportedModelError",
    "__version__",
    "load",
    "register",
]


def __getattr__(name: str) -> Any:
    if name == "register":
        from lepton_edge.models.registry import register

        return register
    if name in ("LeptonModel", "Model", "Piece", "load"):
        from lepton_edge import api

        return getattr(api, name)
    if name == "Ensemble":
        from lepton_edge.tasks.ensemble import Ensemble

        return Ensemble
    if name in ("Answer", "ChatPiece", "ToolCall"):
        from lepton_edge.generate import chat

        return getattr(chat, name)
    raise AttributeError(f"module 'lepton_edge' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
