"""Executors: the CPU executor, its threads and its cache of keys and values."""

from .engine import Engine
from .plan import Plan

__all__ = ["Engine", "Plan"]
