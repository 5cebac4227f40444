"""The trained RWKV 4 and 7 of the measurement data, imported, against their authors' logits, and as text."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from engines import feed, relative

import lepton_edge
from lepton_edge.checkpoint.store import Checkpoint
from lepton_edge.models.registry import spec_of
from lepton_edge.runtime import Engine

TOOL = Path(__file__).resolve().parents[2] / "tools" / "import_rwkv.py"
FILES = {4: "4v0-660K", 7: "7v0-834K"}
PROMPT = '"in'  # what rwkv.cpp's own test feeds


@pytest.fixture(scope="module", params=FILES)
def model(
    request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, np.ndarray]:
    """(imported folder, expected logits float32 [256] after the prompt)."""
    data, name = shared / "models" / "rwkv_tiny", FILES[request.param]
    folder = tmp_path_factory.mktemp("rwkv") / name
    source = data / f"tiny-rwkv-{name}-FP32.bin"
    subprocess.run([sys.executable, TOOL, source, folder], check=True, timeout=60)
    return folder, np.fromfile(data / f"expected-logits-{name}.bin", "<f4")


@pytest.mark.parametrize(("format", "tolerance"), [("f32", 1e-5), ("q8", 0.03), ("q4", 0.25)])
def test_logits(model: tuple[Path, np.ndarray], format: str, tolerance: float) -> None:
    """In one step and token by token.  q8 and q4 differ by what packing does to such narrow matrices: a product of 64
    to 256 terms with weights off by 1/2 of 1/127 or 1/7 of the largest of 32, twelve layers of them."""
    folder, expected = model
    with Checkpoint.open(folder) as checkpoint:
        engine = Engine.load(checkpoint, spec_of(checkpoint), format=format, threads=1)
        ids = np.frombuffer(PROMPT.encode(), np.uint8).astype(np.int32)
        whole, steps = feed(engine, engine.open(), ids), feed(engine, engine.open(), ids, 1)
        engine.close()
    assert np.array_equal(whole, steps)
    assert relative(whole[-1], expected) <= tolerance


def test_text(model: tuple[Path, np.ndarray]) -> None:
    """The imported folder is a whole model: its tokens are bytes, and it writes some."""
    with lepton_edge.load(model[0], threads=1) as loaded:
        assert loaded.tokenizer.encode(PROMPT) == list(PROMPT.encode())
        text = loaded.generate(PROMPT, max_tokens=24)
        assert loaded.tokenizer.encode(PROMPT + text)[:3] == list(PROMPT.encode()) and text
        again = loaded.generate(loaded.tokenizer.encode(PROMPT), max_tokens=24)
        assert again == text and loaded.context == 1 << 24


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    """Without the data: what is not a model file, and one that ends early."""
    source = tmp_path / "model.bin"
    good = np.array([0x67676D66, 101, 256, 4, 1, 0], "<i4").tobytes()
    tensor = np.array([2, 10, 0, 4, 256], "<i4").tobytes() + b"emb.weight"
    for content, words in (
        (b"short", "too short"),
        (bytes(24), "not a model file"),
        (good + b"x", "within the header"),
        (good + tensor + bytes(100), "more than the file holds"),
        (good + tensor[:8] + b"\2\0\0\0" + tensor[12:] + bytes(4096), "data type 2"),
    ):
        source.write_bytes(content)
        command = [sys.executable, TOOL, source, tmp_path / "out"]
        run = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert run.returncode == 1 and words in run.stderr and "Traceback" not in run.stderr
        assert not (tmp_path / "out").exists()
