"""Executors: the CPU executor, its threads and its cache of keys and values."""

from .engine import Engine

__all__ = ["Engine"]
