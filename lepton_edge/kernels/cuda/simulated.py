"""The words on Numba's CUDA simulator, which has neither warps nor PTX: a warp is one thread, memory is the host's.

The fast paths' words (`unrolled`) have no counterpart: the simulator runs the plain paths.
"""

import ctypes
from typing import Any

import numpy as np
from numba import cuda

__all__ = [
    "LANES",
    "arrive",
    "begin",
    "get_bf16",
    "get_f16",
    "get_f32",
    "get_i8",
    "get_i32",
    "get_i64",
    "get_u8",
    "jit",
    "max_nan",
    "put_f16",
    "put_f32",
    "put_i8",
    "put_i32",
    "round_i32",
    "sync_warp",
    "warp_max",
    "warp_sum",
]  # fmt: skip

LANES = 1

jit = cuda.jit(device=True)


def _getter(kind: Any) -> Any:
    return lambda address: kind.from_address(int(address)).value


get_i64, get_i32 = _getter(ctypes.c_int64), _getter(ctypes.c_int32)
get_i8, get_u8, _u16 = _getter(ctypes.c_int8), _getter(ctypes.c_uint8), _getter(ctypes.c_uint16)


def get_f32(address: int) -> np.float32:
    return np.float32(ctypes.c_float.from_address(int(address)).value)


def get_f16(address: int) -> np.float32:
    return np.float32(np.uint16(_u16(address)).view(np.float16))


def get_bf16(address: int) -> np.float32:
    return np.float32(np.uint32(_u16(address) << 16).view(np.float32))


def put_f32(address: int, x: float) -> None:
    ctypes.c_float.from_address(int(address)).value = x


def put_i32(address: int, x: int) -> None:
    ctypes.c_int32.from_address(int(address)).value = int(x)


def put_i8(address: int, x: int) -> None:
    ctypes.c_int8.from_address(int(address)).value = int(x)


def put_f16(address: int, x: float) -> None:
    ctypes.c_uint16.from_address(int(address)).value = int(np.float32(x).astype(np.float16).view(np.uint16))


def round_i32(x: float) -> int:
    return int(np.rint(x)) if np.isfinite(x) else 0


def begin() -> None:
    pass


def arrive(address: int) -> int:
    counted = get_i32(address)
    put_i32(address, counted + 1)
    return counted


def max_nan(x: Any, y: Any) -> Any:
    return np.maximum(x, y)


def sync_warp() -> None:
    pass


def warp_sum(x: Any) -> Any:
    return x


def warp_max(x: Any) -> Any:
    return x
