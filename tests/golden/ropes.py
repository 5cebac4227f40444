"""Rope settings whose frequencies transformers computed and rope.npz stores, in this order."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rope:
    """A head size, max_position_embeddings, `rope_parameters`, and (for dynamic) the length of the sequence."""

    dim: int
    max_positions: int
    parameters: dict[str, Any]
    length: int | None = None


def _yarn(dim: int, max_positions: int, theta: float, factor: float | None, original: int, **options: Any) -> Rope:
    parameters = {
        "rope_type": "yarn",
        "rope_theta": theta,
        "factor": factor,
        "original_max_position_embeddings": original,
    }
    return Rope(dim, max_positions, parameters | options)


def _llama3(dim: int, theta: float, factor: float, low: float, high: float, original: int) -> Rope:
    parameters = {
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }
    return Rope(dim, 131072, parameters)


ROPES = [
    *(
        Rope(dim, 4096, {"rope_type": "linear", "rope_theta": theta, "factor": factor})
        for dim, theta, factor in [(64, 10000.0, 4.0), (80, 500.0, 1.0), (8, 1e6, 2.5)]
    ),
    *(
        Rope(dim, 2048, {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": factor}, length)
        for dim, factor, length in [(64, 2.0, 1), (64, 2.0, 2048), (64, 2.0, 2049), (128, 4.0, 8192), (4, 1.5, 5000)]
    ),
    _llama3(64, 500000.0, 32.0, 1.0, 4.0, 8192),
    _llama3(128, 500000.0, 8.0, 1.0, 4.0, 8192),
    _llama3(24, 10000.0, 16.0, 0.5, 9.0, 512),
    _yarn(64, 8192, 10000.0, 4.0, 2048),
    _yarn(128, 32768, 1e6, 4.0, 32768),
    _yarn(80, 8192, 10000.0, 16.0, 512, beta_fast=16, beta_slow=2),
    _yarn(64, 8192, 10000.0, 4.0, 2048, truncate=False),
    _yarn(64, 8192, 10000.0, 4.0, 2048, attention_factor=1.25),
    _yarn(64, 8192, 10000.0, 40.0, 4096, mscale=1.0, mscale_all_dim=0.707),
    _yarn(64, 8192, 10000.0, 40.0, 4096, mscale=0.707),
    _yarn(64, 8192, 10000.0, None, 1024),
    _yarn(8, 64, 10000.0, 4.0, 4),
    _yarn(16, 256, 100.0, 1.0, 256),
]
