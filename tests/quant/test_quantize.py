"""Whole folders: what is written, what the report says, and that nothing is left behind when it fails."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from golden.recipe import write_folder

from lepton_edge.checkpoint import Checkpoint
from lepton_edge.checkpoint.safetensors import Entry, write_safetensors
from lepton_edge.errors import CheckpointError, ConfigError, MachineError, RequestError
from lepton_edge.quant import pack
from lepton_edge.quant.formats import FORMATS
from lepton_edge.quant.quantize import quantize_folder

ROOT = Path(__file__).parents[2]
CONFIG = {"architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True, "rms_norm_eps": 1e-05, "name": "é"}
EMBED, UP, DOWN, NORM = "model.embed_tokens.weight", "layers.0.up.weight", "layers.0.down.weight", "norm.weight"
SHAPES = {EMBED: (50, 40), UP: (33, 40), DOWN: (40, 33), NORM: (40,)}
DTYPES = {EMBED: "f32", UP: "bf16", DOWN: "f16", NORM: "bf16"}


def values(name: str) -> np.ndarray:
    return np.random.default_rng(len(name)).standard_normal(SHAPES[name]).astype(np.float32)


def entry(name: str, w: np.ndarray, format: str) -> Entry:
    data = FORMATS[format].pack(w.reshape(1, -1))
    return Entry(name, FORMATS[format].dtype, w.shape, lambda: [data])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of two shards in three dtypes, with a tied head (there is no lm_head) and an integer buffer."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    ids = np.arange(6, dtype=np.int64).view(np.uint8)
    shards = {
        "m-1.safetensors": [entry(name, values(name), DTYPES[name]) for name in (EMBED, UP)],
        "m-2.safetensors": [
            Entry("ids", "I64", (2, 3), lambda: [ids]),
            *(entry(name, values(name), DTYPES[name]) for name in (DOWN, NORM)),
        ],
    }
    weight_map = {}
    for file_name, entries in shards.items():
        write_safetensors(folder / file_name, entries)
        weight_map |= {e.name: file_name for e in entries}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "chat_template.jinja",
        "README.md",
    ):
        (folder / name).write_text(f'{{"of": "{name}"}}')
    for name in ("pytorch_model.bin", "optimizer.pt", "notes.txt"):
        (folder / name).write_text("not for the copy")
    return folder


def stored(name: str) -> np.ndarray:
    """The tensor's values as the source holds them."""
    fmt = FORMATS[DTYPES[name]]
    return fmt.unpack(fmt.pack(values(name).reshape(1, -1)), 1, values(name).size).reshape(SHAPES[name])


@pytest.mark.parametrize("chunk", [1, 1 << 20])
@pytest.mark.parametrize("format", list(FORMATS))
def test_every_format(source: Path, tmp_path: Path, format: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "CHUNK", chunk)
    report = quantize_folder(source, tmp_path / "out", format)
    fmt = FORMATS[format]
    with Checkpoint.open(tmp_path / "out") as checkpoint:
        assert checkpoint.names == {*SHAPES, "ids"} and checkpoint.is_packed == fmt.packed
        for name in (EMBED, UP, DOWN):
            weight = checkpoint.weight(name)
            assert weight.format == format and weight.shape == SHAPES[name]
            np.testing.assert_array_equal(weight.data, fmt.pack(stored(name)).reshape(-1))
            assert weight.data.ctypes.data % (64 if fmt.packed else 2) == 0
        assert checkpoint.format(NORM) == "bf16"
        np.testing.assert_array_equal(checkpoint.weight(NORM).to_f32(), stored(NORM))
        np.testing.assert_array_equal(checkpoint.bytes("ids").view(np.int64), np.arange(6))
        lepton = {"lepton": {"format": format}} if fmt.packed else {}
        assert checkpoint.config == CONFIG | lepton
    for row in report.rows:
        w = stored(row.tensor).astype(np.float64) if row.tensor != "ids" else np.zeros(1)
        back = fmt.unpack(fmt.pack(stored(row.tensor)), *w.shape) if w.ndim == 2 else w
        assert row.error == pytest.approx(np.linalg.norm(w - back) / max(np.linalg.norm(w), 1e-30), rel=1e-4, abs=1e-12)


def test_files_around_the_weights(source: Path, tmp_path: Path) -> None:
    quantize_folder(source, tmp_path / "out", "q4")
    kept = ["README.md", "chat_template.jinja", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(os.listdir(tmp_path / "out")) == sorted(["config.json", "model.safetensors", *kept])
    for name in kept:
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["out", "source"]


def test_the_library_loads_the_result(source: Path, tmp_path: Path) -> None:
    quantize_folder(source, tmp_path / "out", "q4", keep=["down=f16"])
    with safetensors.safe_open(tmp_path / "out" / "model.safetensors", "numpy") as file:
        assert file.metadata()["format"] == "pt"
        np.testing.assert_array_equal(file.get_tensor(EMBED), FORMATS["q4"].pack(stored(EMBED)))
        np.testing.assert_array_equal(file.get_tensor(DOWN), stored(DOWN).astype(np.float16))
        assert file.get_slice(NORM).get_dtype() == "BF16"


def test_keep_rules_take_the_first_match(source: Path, tmp_path: Path) -> None:
    keep = [r"embed.*=q8", r"layers\.0\.up=f32", r"layers=bf16"]
    report = quantize_folder(str(source), str(tmp_path / "out"), "q4", keep=keep)
    expected = {EMBED: "q8", UP: "f32", DOWN: "bf16", NORM: "bf16", "ids": "I64"}
    assert {row.tensor: row.format for row in report.rows} == expected
    with Checkpoint.open(tmp_path / "out") as checkpoint:
        assert {name: checkpoint.format(name) for name in SHAPES} == {n: expected[n] for n in SHAPES}
        assert checkpoint.config["lepton"] == {"format": "q4"}
        np.testing.assert_array_equal(checkpoint.weight(UP).to_f32(), stored(UP))


def test_report_adds_up(source: Path, tmp_path: Path) -> None:
    report = quantize_folder(source, tmp_path / "out", "q4")
    rows = {row.tensor: row for row in report.rows}
    assert rows[EMBED].nbytes == 4 * 576 and rows[EMBED].weights == 2000
    assert rows[EMBED].bits == pytest.approx(8 * 4 * 576 / 2000)
    assert (rows[NORM].format, rows[NORM].bits, rows[NORM].error) == ("bf16", 16, 0)
    assert (rows["ids"].format, rows["ids"].bits, rows["ids"].error) == ("I64", 64, 0)
    assert report.source_nbytes == 50 * 40 * 4 + 33 * 40 * 2 * 2 + 40 * 2 + 48
    total = report.total
    assert total.weights == 2000 + 1320 * 2 + 40 + 6
    assert total.nbytes == sum(row.nbytes for row in report.rows)
    errors = [(np.linalg.norm(stored(name)) * rows[name].error) ** 2 for name in (EMBED, UP, DOWN)]
    norms = [np.linalg.norm(stored(name)) ** 2 for name in (EMBED, UP, DOWN)]
    assert total.error == pytest.approx(np.sqrt(sum(errors) / sum(norms)), rel=1e-4)
    assert 0.06 < total.error < 0.09
    lines = str(report).splitlines()
    assert all(len(line) <= 80 for line in lines) and len(lines) == len(rows) + 5
    up = f"{rows[UP].bits:.2f}", f"{rows[UP].error:.5f}"
    assert next(line for line in lines if line.startswith(UP)).split() == [UP, "q4", *up]


def test_progress_runs_from_start_to_end(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "CHUNK", 1)
    calls: list[tuple[int, int, str]] = []
    report = quantize_folder(source, tmp_path / "out", "q8", progress=lambda *call: calls.append(call))
    done = [call[0] for call in calls]
    assert done == sorted(done) and done[-1] == report.source_nbytes
    assert {call[1] for call in calls} == {report.source_nbytes}
    assert {call[2] for call in calls} == {*SHAPES, "ids"}
    assert sum(call[2] == EMBED for call in calls) == 4  # 50 rows, 16 at a time


@pytest.mark.parametrize(
    ("format", "keep", "message"),
    [
        ("q5", [], "no weight format 'q5'; expected one of f32, f16, bf16, q8, q4"),
        ("q4", ["lm_head"], "expected REGEX=FORMAT"),
        ("q4", ["=q8"], "expected REGEX=FORMAT"),
        ("q4", ["up="], "no weight format ''"),
        ("q4", ["up=q9"], "no weight format 'q9'; expected one of f32, f16, bf16, q8, q4, mxfp4"),
        ("q4", ["(=q8"], "invalid regular expression"),
        ("q4", ["a{99999999999999999999}=q8"], "invalid regular expression"),
        ("q4", ["up=q8", "lm_head=q8"], "'lm_head=q8': matches none of the 3 matrices"),
        ("q4", ["norm=f32"], "'norm=f32': matches none"),
    ],
)
def test_wrong_arguments(source: Path, tmp_path: Path, format: str, keep: list[str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        quantize_folder(source, tmp_path / "out", format, keep=keep)
    assert os.listdir(tmp_path) == ["source"]


def test_wrong_folders(source: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="source: exists already"):
        quantize_folder(source, source, "q4")
    with pytest.raises(RequestError, match="would be in does not exist"):
        quantize_folder(source, tmp_path / "no" / "out", "q4")
    with pytest.raises(CheckpointError, match="absent: is not a folder"):
        quantize_folder(tmp_path / "absent", tmp_path / "out", "q4")
    quantize_folder(source, tmp_path / "out", "q8")
    with pytest.raises(CheckpointError, match="out: is packed already; expected weights in f32, f16 or bf16"):
        quantize_folder(tmp_path / "out", tmp_path / "again", "q4")
    (source / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json"):
        quantize_folder(source, tmp_path / "other", "q4")
    assert sorted(os.listdir(tmp_path)) == ["out", "source"]


def test_weights_that_cannot_be_packed(source: Path, tmp_path: Path) -> None:
    bad = values(DOWN)
    bad[7, 30] = np.nan
    data = bad.astype(np.float16).reshape(-1).view(np.uint8)
    write_safetensors(source / "model.safetensors", [Entry(DOWN, "F16", bad.shape, lambda: [data])])
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: tensor '{DOWN}': weights that are NaN") as caught:
        quantize_folder(source, tmp_path / "out", "q4")
    assert str(source) in str(caught.value)
    assert os.listdir(tmp_path) == ["source"]
    quantize_folder(source, tmp_path / "out", "q4", keep=["down=f16"])  # not converted, so copied as it is


def test_interrupted_run_leaves_nothing(source: Path, tmp_path: Path) -> None:
    seen = []

    def interrupt(done: int, total: int, name: str) -> None:
        seen.extend(path.name for path in tmp_path.iterdir() if path != source)
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_folder(source, tmp_path / "out", "q4", progress=interrupt)
    assert seen and all(name.startswith("out.tmp-") for name in seen)
    assert os.listdir(tmp_path) == ["source"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs setrlimit")
def test_full_disk_leaves_nothing(source: Path, tmp_path: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))  # as if the disk were full after 3000 bytes
    try:
        with pytest.raises(MachineError, match=r"out: cannot be written \(.*free some space"):
            quantize_folder(source, tmp_path / "out", "q4")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == ["source"]


def test_source_cut_on_the_way(source: Path, tmp_path: Path) -> None:
    def cut(done: int, total: int, name: str) -> None:
        os.truncate(source / "m-2.safetensors", 100)

    with pytest.raises(CheckpointError, match=r"m-2\.safetensors: has 100 bytes"):
        quantize_folder(source, tmp_path / "out", "q4", progress=cut)
    assert os.listdir(tmp_path) == ["source"]


def test_the_script(tmp_path: Path) -> None:
    source = write_folder("llama_plain", tmp_path / "source")
    command = [sys.executable, str(ROOT / "tools" / "quantize.py"), str(source), str(tmp_path / "out")]
    options = ["--format", "q4", "--keep", "up_proj=q8"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("model.layers.1.mlp")]
    assert [line[1] for line in sorted(lines)] == ["q4", "q4", "q8"] and "21 tensors" in done.stdout
    again = subprocess.run([*command, "--format", "q4"], capture_output=True, text=True, cwd=tmp_path)
    assert again.returncode == 2 and "exists already" in again.stderr and again.stderr.count("\n") == 1


def test_real_model(shared: Path, tmp_path: Path) -> None:
    folder = shared / "models" / "tinystories656k"
    for format, low, high in (("q4", 0.07, 0.09), ("q8", 0.004, 0.006)):
        report = quantize_folder(folder, tmp_path / format, format)
        assert low < report.total.error < high
