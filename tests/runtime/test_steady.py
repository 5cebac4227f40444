"""Steady state: ten thousand tokens leave nothing behind, and a step's own memory does not grow with the vocabulary."""

import json
from pathlib import Path

import pytest
from golden import recipe
from processes import run_python

pytestmark = pytest.mark.slow

TOKENS = 10_000
SMALLEST = 24  # bytes of the smallest of Python's objects


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model whose text never ends, of a context that holds all tokens; each attends to 13 of them."""
    folder = recipe.write_folder("mistral_window", tmp_path_factory.mktemp("model") / "endless")
    changes = {"max_position_embeddings": TOKENS + 2, "eos_token_id": []}
    for name in ("config.json", "generation_config.json"):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    (folder / "tokenizer_config.json").unlink()
    return folder


@pytest.mark.parametrize("kind", ["stream", "requests", "steps"])
def test_tokens_leave_nothing_behind(kind, folder):
    """Allowed are one object of Python for every tenth token, and 32 bytes of the process for each.

    A list of pages does grow, by 8 bytes for each 128 positions; NumPy keeps up to 7 small arrays of each size; and the
    system counts memory in pages.  A step's own memory is less than a copy of its 5000 logits.
    """
    program = Path(__file__).parent / "steady_program.py"
    found = json.loads(run_python(program, kind, str(TOKENS), folder))
    assert found["cycles"] < TOKENS // 100 and found["kept"] < TOKENS * 9 // 100 * SMALLEST, found
    assert found["process"] < TOKENS * 32 and found["most"] < 5000 * 4, found
