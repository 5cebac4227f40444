"""PEFT's LoRA folders: read, checked against a model, and merged into one."""

from .delta import Adapter, Delta
from .read import read_adapter

__all__ = ["Adapter", "Delta", "read_adapter"]
