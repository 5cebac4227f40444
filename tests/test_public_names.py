"""What users import: every public name exists, is documented, and says where it comes from."""

import importlib
import pkgutil

import pytest

import lepton_edge
from lepton_edge import errors

PUBLIC = ("lepton_edge", "lepton_edge.api", "lepton_edge.errors", "lepton_edge.cli")


@pytest.mark.parametrize("name", PUBLIC)
def test_all_is_complete_and_sorted(name: str) -> None:
    module = importlib.import_module(name)
    assert list(module.__all__) == sorted(module.__all__)
    for public in module.__all__:
        assert getattr(module, public) is not None


def test_the_promised_interface() -> None:
    for name in ("load", "Model", "LeptonError", "__version__"):
        assert name in lepton_edge.__all__
    names = ("chat", "stream_chat", "generate", "stream", "logits", "tokenizer", "cancel", "close", "spec", "format")
    names += ("load_adapter", "use_adapter", "unload_adapter", "adapters")
    for name in names:
        assert getattr(lepton_edge.Model, name).__doc__, f"Model.{name} has no docstring"


def test_every_error_is_public_and_ours() -> None:
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), errors.LeptonError)
        assert getattr(errors, name).__doc__


def test_every_module_has_a_docstring() -> None:
    import ast

    for found in pkgutil.walk_packages(lepton_edge.__path__, "lepton_edge."):
        spec = importlib.util.find_spec(found.name)
        assert spec is not None and spec.origin is not None
        with open(spec.origin, encoding="utf-8") as file:
            assert ast.get_docstring(ast.parse(file.read())), f"{found.name} has no docstring"
