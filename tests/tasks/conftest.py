"""Small models of each kind, loaded once."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from golden import tasks

import lepton_edge


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., lepton_edge.Model]]:
    """load(name, **fields of config.json): one of `golden.tasks.NAMES`, which the test must not close."""
    loaded: dict[Any, lepton_edge.Model] = {}

    def get(name: str, **fields: Any) -> lepton_edge.Model:
        key = (name, repr(fields))
        if key not in loaded:
            folder: Path = tmp_path_factory.mktemp("model") / name
            loaded[key] = lepton_edge.load(tasks.write_folder(name, folder, **fields), threads=1)
        return loaded[key]

    yield get
    for model in loaded.values():
        model.close()
