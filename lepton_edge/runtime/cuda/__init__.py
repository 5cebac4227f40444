"""The CUDA executor: the program that runs on the CPU, on an NVIDIA GPU.  Nothing else imports this package before a
model is asked for with `device="cuda"`."""

from .engine import CudaEngine

__all__ = ["CudaEngine"]
