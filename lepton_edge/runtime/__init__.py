"""Programs bound to memory and run: on the CPU's threads, or on a GPU.

Internal: the public doors are `lepton_edge` and the command line.
"""

from ..errors import RequestError
from .engine import Engine
from .plan import Plan

__all__ = ["DEVICES", "Engine", "Plan", "engine_for"]

DEVICES = ("cpu", "cuda")


def engine_for(device: str) -> type[Engine]:
    """The executor for a device; nothing of CUDA is imported for the CPU.  RequestError for an unknown one."""
    if device not in DEVICES:
        raise RequestError(f"device={device!r}: expected one of {', '.join(DEVICES)}")
    if device == "cpu":
        return Engine
    from .cuda import CudaEngine

    return CudaEngine
