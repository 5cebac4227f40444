"""The models that come with the package: small folders, under `lepton_edge/weights` or, in a source tree, `weights`."""

from pathlib import Path

DEFAULT = "stories"
PACKAGE = Path(__file__).resolve().parent


def names() -> list[str]:
    """Names of the embedded models, sorted."""
    return sorted(_folders())


def find(name: str) -> Path | None:
    """The folder of an embedded model, or None."""
    return _folders().get(name)


def _folders() -> dict[str, Path]:
    roots = [PACKAGE / "weights"]
    if (PACKAGE.parent / "pyproject.toml").is_file():
        roots.append(PACKAGE.parent / "weights")
    return {config.parent.name: config.parent for root in roots for config in root.glob("*/config.json")}
