"""The vocabulary of the CUDA kernels: PTX, or what the simulator has for it."""

from numba import config

if config.ENABLE_CUDASIM:
    from .simulated import *  # noqa: F403
else:
    from .ptx import *  # noqa: F403
