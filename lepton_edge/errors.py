"""Every error that lepton_edge raises on purpose, as one small tree.

A message is one line: what is wrong, where, what was expected, what to do.
"""

__all__ = [
    "Cancelled",
    "CheckpointError",
    "ConfigError",
    "ContextLengthError",
    "LeptonError",
    "MachineError",
    "ModelError",
    "RequestError",
    "TemplateError",
    "TokenizerError",
    "UnsupportedModelError",
]


class LeptonError(Exception):
    """The root: `except LeptonError` catches everything that lepton_edge raises on purpose."""


class ModelError(LeptonError):
    """Something about a model folder."""


class CheckpointError(ModelError):
    """A weight file is missing, damaged, incomplete, or changed while it was in use."""


class ConfigError(ModelError):
    """config.json is damaged, or disagrees with itself or with the tensors."""


class UnsupportedModelError(ModelError):
    """The folder is sound, but describes a model that lepton_edge does not run."""


class TokenizerError(ModelError):
    """The tokenizer's files are missing or damaged."""


class TemplateError(ModelError):
    """The chat template is missing, wrong, or does what is forbidden to it."""


class RequestError(LeptonError, ValueError):
    """An argument of a call is wrong."""


class ContextLengthError(RequestError):
    """The prompt does not fit the model's context."""


class Cancelled(LeptonError):
    """The work was stopped by `cancel()`."""


class MachineError(LeptonError):
    """The machine lacks something: an instruction set, a package, a writable cache folder, a working compiler."""
