"""A model as a program: a flat table of operations over a few buffers, which several executors can run."""

from .build import build_program
from .table import Buffer, Program, Row

__all__ = ["Buffer", "Program", "Row", "build_program"]
