"""Show what lepton finds on this machine.

Imports neither Numba nor a model: it must also answer where those do not work.
"""

import argparse
import os
from pathlib import Path

from lepton_edge.cli.output import facts, size
from lepton_edge.errors import MachineError
from lepton_edge.version import __version__

PACKAGES = ("numpy", "numba", "llvmlite", "tokenizers", "safetensors")
FEATURES = ("avx2", "fma", "f16c", "avxvnni", "avx512f", "avx512bw", "avx512vnni", "avx512bf16", "amx-int8",
            "asimddp", "i8mm", "atomics")  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""


def run(arguments: argparse.Namespace) -> int:
    """Prints the facts. Raises MachineError, after printing, where something must be mended."""
    import platform

    from lepton_edge.cli.cpu import cpu_name
    from lepton_edge.kernels.library import cache_folder
    from lepton_edge.kernels.machine import available, choose

    problems: list[str] = []
    folder = cache_folder()
    try:
        chosen = choose()
    except MachineError as error:
        chosen = "none"
        problems.append(str(error))
    found = {
        "lepton": f"{__version__}, Python {platform.python_version()}, {platform.platform(terse=True)}",
        "packages": ", ".join(_package(name, problems) for name in PACKAGES),
        "cpu": cpu_name(),
        "features": _features(),
        "isa": f"{chosen} (this CPU has {', '.join(available())})",
        "cores": str(os.cpu_count()),
        "gpu": _gpu(),
        "cache": f"{folder} ({_cache(folder, problems)})",
        "models": ", ".join(_models()) or "none",
    }
    print(facts(found))
    if problems:
        raise MachineError("; ".join(problems))
    return 0


def _package(name: str, problems: list[str]) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        problems.append(f"{name} is not installed; pip install {name}")
        return f"{name} missing"


def _gpu() -> str:
    """The GPU that `--device cuda` uses, or why there is none, which is no fault."""
    from importlib.util import find_spec

    if find_spec("numba_cuda") is None:
        return "not used (pip install 'lepton-edge[cuda]' for an NVIDIA GPU)"
    from lepton_edge.runtime.cuda.device import open_device

    try:
        device = open_device()
    except MachineError as error:
        return str(error)
    return f"{device.name}, sm_{device.arch}"


def _features() -> str:
    from lepton_edge.kernels.features import cpu_features

    found = cpu_features()
    return ", ".join(name for name in FEATURES if name in found) or f"none of {', '.join(FEATURES)}"


def _cache(folder: Path, problems: list[str]) -> str:
    """How many compiled kernels there are, or why none can be kept."""
    import tempfile

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        problems.append(f"{folder}: cannot be written ({error.strerror}); set LEPTON_CACHE to a writable folder")
        return "not writable"
    objects = list(folder.rglob("*.o"))
    return f"{len(objects)} compiled kernels, {size(sum(path.stat().st_size for path in objects))}"


def _models() -> list[str]:
    from lepton_edge import embedded

    folders = {name: embedded.find(name) for name in embedded.names()}
    return [
        f"{name} ({size(sum(path.stat().st_size for path in folder.glob('*.safetensors')))})"
        for name, folder in folders.items()
        if folder is not None
    ]
