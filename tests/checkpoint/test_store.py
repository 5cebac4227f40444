"""Model folders: single and sharded, plain and packed, and everything that can be wrong with them."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from lepton_edge.checkpoint import Checkpoint, Weight
from lepton_edge.checkpoint.packed import PackedTensor, packed_metadata
from lepton_edge.checkpoint.safetensors import DTYPE_BYTES, Entry, write_safetensors
from lepton_edge.checkpoint.stored import Stored
from lepton_edge.errors import CheckpointError, ConfigError
from lepton_edge.quant.formats import FORMATS

CONFIG = {"architectures": ["LlamaForCausalLM"], "hidden_size": 40}
INDEX = "model.safetensors.index.json"


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).standard_normal(shape), np.float32)


def plain_entry(name: str, format: str, w: np.ndarray) -> Entry:
    data = FORMATS[format].pack(w.reshape(1, -1))
    return Entry(name, FORMATS[format].dtype, w.shape, lambda: [data])


def packed_entry(name: str, format: str, w: np.ndarray) -> Entry:
    data = FORMATS[format].pack(w)
    return Entry(name, "U8", data.shape, lambda: [data])


def single(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    write_safetensors(
        folder / "model.safetensors",
        [
            plain_entry("a", "f32", weights(4, 6)),
            plain_entry("b", "bf16", weights(6)),
            plain_entry("c", "f16", weights()),
        ],
    )
    return folder


def sharded(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    write_safetensors(folder / "m-1.safetensors", [plain_entry("a", "f32", weights(4, 6))])
    write_safetensors(folder / "m-2.safetensors", [plain_entry("b", "bf16", weights(6))])
    write_index(folder, {"a": "m-1.safetensors", "b": "m-2.safetensors"})
    return folder


def write_index(folder: Path, weight_map: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 108}, "weight_map": weight_map}))


def packed(folder: Path, change: Callable[[dict[str, str]], None] = lambda metadata: None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    metadata = packed_metadata({"a": PackedTensor("q4", (20, 40)), "b": PackedTensor("q8", (3, 33))})
    change(metadata)
    write_safetensors(
        folder / "model.safetensors",
        [
            packed_entry("a", "q4", weights(20, 40)),
            packed_entry("b", "q8", weights(3, 33)),
            plain_entry("c", "f32", weights(5)),
        ],
        metadata,
    )
    return folder


def test_single_file(tmp_path: Path) -> None:
    with Checkpoint.open(single(tmp_path)) as checkpoint:
        assert checkpoint.config == CONFIG and checkpoint.generation_config == {}
        assert checkpoint.names == {"a", "b", "c"} and not checkpoint.is_packed
        assert [checkpoint.format(name) for name in "abc"] == ["f32", "bf16", "f16"]
        assert [checkpoint.shape(name) for name in "abc"] == [(4, 6), (6,), ()]
        a, b, c = (checkpoint.weight(name) for name in "abc")
        np.testing.assert_array_equal(a.to_f32(), weights(4, 6))
        np.testing.assert_allclose(b.to_f32(), weights(6), rtol=2**-8)
        np.testing.assert_array_equal(c.to_f32(), weights().astype(np.float16))
        assert np.shares_memory(a.data, checkpoint.weight("a").data) and not a.data.flags.writeable
        checkpoint.check_unchanged()


def test_shards(tmp_path: Path) -> None:
    with Checkpoint.open(str(sharded(tmp_path))) as checkpoint:
        assert [file.path.name for file in checkpoint.files] == ["m-1.safetensors", "m-2.safetensors"]
        assert checkpoint.names == {"a", "b"}
        np.testing.assert_array_equal(checkpoint.weight("a").to_f32(), weights(4, 6))


def test_shards_may_be_links_as_in_the_hugging_face_cache(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "snapshot")
    (folder / "m-1.safetensors").rename(tmp_path / "blob")
    (folder / "m-1.safetensors").symlink_to(tmp_path / "blob")
    with Checkpoint.open(folder) as checkpoint:
        assert checkpoint.shape("a") == (4, 6)


def test_a_single_file_goes_before_an_index(tmp_path: Path) -> None:
    sharded(tmp_path)
    with Checkpoint.open(single(tmp_path)) as checkpoint:
        assert checkpoint.names == {"a", "b", "c"}


def test_packed_file(tmp_path: Path) -> None:
    with Checkpoint.open(packed(tmp_path)) as checkpoint:
        assert checkpoint.is_packed
        assert [checkpoint.format(name) for name in "abc"] == ["q4", "q8", "f32"]
        assert [checkpoint.shape(name) for name in "abc"] == [(20, 40), (3, 33), (5,)]
        a = checkpoint.weight("a")
        assert a.data.size == FORMATS["q4"].nbytes(20, 40) and a.data.ctypes.data % 64 == 0
        assert checkpoint.info("a").dtype == "U8" and checkpoint.bytes("a").size == a.data.size
        expected = FORMATS["q4"].unpack(FORMATS["q4"].pack(weights(20, 40)), 20, 40)
        np.testing.assert_array_equal(a.to_f32(), expected)
        assert np.abs(checkpoint.weight("b").to_f32() - weights(3, 33)).max() < 3 / 127


def test_the_library_loads_packed_files(tmp_path: Path) -> None:
    loaded = safetensors.numpy.load_file(packed(tmp_path) / "model.safetensors")
    assert {name: array.dtype.name for name, array in loaded.items()} == {"a": "uint8", "b": "uint8", "c": "float32"}
    np.testing.assert_array_equal(loaded["a"], FORMATS["q4"].pack(weights(20, 40)))


def test_weight_of_any_rank() -> None:
    for shape in [(), (7,), (3, 5), (2, 3, 4), (0, 4)]:
        w = weights(*shape)
        for name in ("f32", "bf16", "f16"):
            data = FORMATS[name].pack(w.reshape(1, -1))
            back = Weight("w", name, shape, data).to_f32()
            assert back.shape == shape and back.dtype == np.float32
            np.testing.assert_allclose(back, w, rtol=2**-8)


def test_unaligned_tensors_are_read(tmp_path: Path) -> None:
    folder = single(tmp_path)
    one = np.array([7], np.uint8)
    write_safetensors(
        folder / "model.safetensors", [Entry("x", "U8", (1,), lambda: [one]), plain_entry("a", "f32", weights(4, 6))]
    )
    with Checkpoint.open(folder) as checkpoint:
        assert checkpoint.weight("a").data.ctypes.data % 4 == 1
        np.testing.assert_array_equal(checkpoint.weight("a").to_f32(), weights(4, 6))


def test_require_lists_everything_at_once(tmp_path: Path) -> None:
    folder = single(tmp_path)
    number = np.zeros(16, np.uint8)
    write_safetensors(
        folder / "model.safetensors",
        [Entry("i", "I64", (2,), lambda: [number]), *(plain_entry(n, "f32", weights(4, 6)) for n in "abc")],
    )
    with Checkpoint.open(folder) as checkpoint:
        checkpoint.require({"a": (4, 6), "b": (4, 6)})
        with pytest.raises(CheckpointError) as caught:
            checkpoint.require({"x": (1,), "a": (4, 7), "i": (2,), "y": (2, 2), "b": (24,), "c": (4, 6)})
        assert str(caught.value) == (
            f"{folder}: the tensors are not those that config.json asks for; missing: x, y; of another shape: "
            "a is [4, 6], config.json says [4, 7], b is [4, 6], config.json says [24]; of a dtype that is none of "
            "F32, F16, BF16: i is I64; check that config.json and the weights belong together"
        )
        with pytest.raises(CheckpointError, match=r"model\.safetensors: tensor 'i' has dtype I64; expected one of F32"):
            checkpoint.weight("i")
        with pytest.raises(CheckpointError, match="no tensor 'z'"):
            checkpoint.shape("z")
        with pytest.raises(CheckpointError, match=r"missing: n0, .*, n11 and 3060 more; check"):
            checkpoint.require({f"n{i}": (1,) for i in range(3072)})


def refused(folder: Path, error: type[Exception], message: str) -> str:
    with pytest.raises(error, match=message) as caught:
        Checkpoint.open(folder)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_folders_that_are_none(tmp_path: Path) -> None:
    refused(tmp_path / "absent", CheckpointError, "is not a folder")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", CheckpointError, "is not a folder")
    with pytest.raises(CheckpointError, match="is not a folder"):
        Checkpoint.open("nul\0")
    (tmp_path / "config.json").write_text("{}")
    refused(tmp_path, CheckpointError, r"holds neither model\.safetensors nor model\.safetensors\.index\.json")


def halves(folder: Path, **changed: tuple[str, tuple[int, ...]]) -> Checkpoint:
    """A folder with the MXFP4 matrix `m` [2, 16, 32] of zeros; changed: dtype and shape of its tensors."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    parts = {"m_blocks": ("U8", (2, 16, 1, 16)), "m_scales": ("U8", (2, 16, 1))} | changed
    data = {name: np.zeros(math.prod(shape) * DTYPE_BYTES[dtype], np.uint8) for name, (dtype, shape) in parts.items()}
    write_safetensors(folder / "model.safetensors", [
        Entry(name, dtype, shape, lambda name=name: [data[name]]) for name, (dtype, shape) in parts.items()
    ])  # fmt: skip
    return Checkpoint.open(folder)


def test_an_mxfp4_matrix_is_one_tensor(tmp_path: Path) -> None:
    with halves(tmp_path) as checkpoint:
        checkpoint.arrange({"m": Stored(mxfp4=True)})
        assert checkpoint.names == {"m"} and checkpoint.shape("m") == (2, 16, 32) and checkpoint.format("m") == "mxfp4"
        assert checkpoint.stored_bytes("m") == 2 * 16 * 17 and not checkpoint.weight("m").to_f32().any()
        assert checkpoint.weight("m").data.ctypes.data % 64 == 0
        checkpoint.require({"m": (2, 16, 32)})
        with pytest.raises(CheckpointError, match=r"m is \[2, 16, 32\], config.json says \[2, 16, 64\]"):
            checkpoint.require({"m": (2, 16, 64)})


@pytest.mark.parametrize(("changed", "message"), [
    (dict(m_blocks=("U8", (2, 16, 1, 8))), r"m_blocks is U8 \[2, 16, 1, 8\].*expected MXFP4"),
    (dict(m_blocks=("U8", (2, 16, 16))), "expected MXFP4"),
    (dict(m_scales=("U8", (2, 1, 16))), "expected MXFP4"),
    (dict(m_scales=("U8", (32,))), "expected MXFP4"),
    (dict(m_scales=("U8", ())), "expected MXFP4"),
    (dict(m_scales=("F32", (2, 16, 1))), r"m_scales F32 \[2, 16, 1\]; expected MXFP4"),
    (dict(m_blocks=("U8", (2, 17, 1, 16)), m_scales=("U8", (2, 17, 1))), "a multiple of 16 rows"),
])  # fmt: skip
def test_what_cannot_be_mxfp4(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with halves(tmp_path, **changed) as checkpoint, pytest.raises(CheckpointError, match=message):
        checkpoint.arrange({"m": Stored(mxfp4=True)})


def test_half_of_an_mxfp4_matrix(tmp_path: Path) -> None:
    with halves(tmp_path) as checkpoint:
        checkpoint.arrange({"n": Stored(mxfp4=True)})
        with pytest.raises(CheckpointError, match="missing: n_blocks, n_scales;"):
            checkpoint.require({"n": (2, 16, 32)})


@pytest.mark.parametrize("stored", [
    Stored(transposed=True), Stored(turns=-1), Stored(turns=-2), Stored(transposed=True, turns=-2),
])  # fmt: skip
def test_other_orders(tmp_path: Path, stored: Stored) -> None:
    w = weights(3, 4, 6)
    there = w
    if stored.turns:  # the first half in even places, the second in odd ones
        there = np.stack(np.split(w, 2, stored.turns), axis=4 + stored.turns).reshape(3, 4, 6)
    there = np.ascontiguousarray(there.swapaxes(1, 2) if stored.transposed else there)
    single(tmp_path)
    write_safetensors(tmp_path / "model.safetensors", [plain_entry("w", "f32", there)])
    with Checkpoint.open(tmp_path) as checkpoint:
        checkpoint.arrange({"w": stored})
        assert checkpoint.shape("w") == (3, 4, 6)
        np.testing.assert_array_equal(checkpoint.weight("w").to_f32(), w)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "invalid JSON"),
        (b"[]", r"invalid JSON \(a list\); expected an object"),
        (b"null", "a NoneType"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"a": 1e400}', "1e400 is too large"),
        (b'{"a": 1, "a": 1}', "the key 'a' appears twice"),
        (b'{"b": {"a": 1, "a": 1}}', "the key 'a' appears twice"),
        (b'{"a": ' * 100_000, "nested too deeply"),
        (b'{"a": ' * 65 + b"1" + b"}" * 65, "nested more than 64 deep"),
        (b"{" + b" " * (17 << 20) + b"}", "is larger than 16 MiB"),
        (b'{"a": "\xff"}', "invalid JSON"),
    ],
)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_bad_configs(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (single(tmp_path) / name).write_bytes(content)
    assert name in refused(tmp_path, ConfigError, message)


def test_config_missing_or_a_folder(tmp_path: Path) -> None:
    (single(tmp_path) / "config.json").unlink()
    refused(tmp_path, ConfigError, r"config\.json: is missing")
    (tmp_path / "config.json").mkdir()
    refused(tmp_path, ConfigError, r"config\.json: is not a file")


def test_generation_config(tmp_path: Path) -> None:
    (single(tmp_path) / "generation_config.json").write_text('{"temperature": 0.5}')
    with Checkpoint.open(tmp_path) as checkpoint:
        assert checkpoint.generation_config == {"temperature": 0.5}


@pytest.mark.parametrize(
    "name",
    [
        *("../x.safetensors", "/etc/x.safetensors", "a/x.safetensors", "..\\x.safetensors", "C:x.safetensors", "x.bin"),
        *("..", "", "x\0.safetensors", "x\n.safetensors", "x" * 300 + ".safetensors", 7, None, ["m-1.safetensors"]),
    ],
)
def test_index_that_points_elsewhere(tmp_path: Path, name: object) -> None:
    write_index(sharded(tmp_path), {"a": "m-1.safetensors", "b": name})
    message = refused(tmp_path, CheckpointError, "expected the name of a .safetensors file in that folder")
    assert INDEX in message and "\n" not in message


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"weight_map": []}', b'{"weight_map": {}}', b"{\xff}"])
def test_broken_index(tmp_path: Path, content: bytes) -> None:
    (sharded(tmp_path) / INDEX).write_bytes(content)
    assert INDEX in refused(tmp_path, CheckpointError, "invalid JSON|has no weight_map")


def test_index_and_shards_disagree(tmp_path: Path) -> None:
    write_index(
        sharded(tmp_path),
        {"a": "m-1.safetensors", "b": "m-2.safetensors", "x": "m-1.safetensors", "y": "m-2.safetensors"},
    )
    assert "'x', 'y'" in refused(tmp_path, CheckpointError, "lists tensors that the files it names do not hold")
    write_index(tmp_path, {"a": "m-2.safetensors", "b": "m-1.safetensors"})
    refused(tmp_path, CheckpointError, "missing: 'a', 'b'")
    write_index(tmp_path, {"a": "m-1.safetensors", "b": "m-3.safetensors"})
    refused(tmp_path, CheckpointError, r"m-3\.safetensors: is missing")
    write_safetensors(tmp_path / "m-3.safetensors", [plain_entry(n, "f32", weights(2)) for n in "ab"])
    refused(tmp_path, CheckpointError, r"m-3\.safetensors: holds tensor 'a', as m-1\.safetensors does")


def test_truncated_shard(tmp_path: Path) -> None:
    with open(sharded(tmp_path) / "m-2.safetensors", "r+b") as file:
        file.truncate(70)
    refused(tmp_path, CheckpointError, r"m-2\.safetensors: is truncated")


def test_changes_after_opening(tmp_path: Path) -> None:
    with Checkpoint.open(sharded(tmp_path)) as checkpoint:
        with open(tmp_path / "m-2.safetensors", "ab") as file:
            file.write(b"1")
        with pytest.raises(CheckpointError, match=r"m-2\.safetensors: has \d+ bytes; expected"):
            checkpoint.check_unchanged()
        with pytest.raises(CheckpointError, match=r"m-2\.safetensors"):
            checkpoint.weight("b")
        checkpoint.weight("a")
    with pytest.raises(CheckpointError, match="was closed"):
        checkpoint.weight("a")


def test_no_file_is_left_open_after_an_error(tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    (folder / "m-2.safetensors").write_bytes(b"rubbish")
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    before = len(os.listdir("/proc/self/fd"))
    refused(folder, CheckpointError, "m-2")
    assert len(os.listdir("/proc/self/fd")) == before


def entry_json(name: str = "a", **changes: object) -> str:
    return json.dumps({name: {"format": "q4", "shape": [20, 40], **changes}})


BAD_PACKED = {
    "newer": ({"lepton.version": "3"}, "written by a newer lepton"),
    "much newer": ({"lepton.version": "999999999"}, "written by a newer lepton"),
    "older": ({"lepton.version": "1"}, "written by an older lepton"),
    "zero": ({"lepton.version": "0"}, "written by an older lepton"),
    "no number": ({"lepton.version": "one"}, "expected a whole number"),
    "negative": ({"lepton.version": "-1"}, "expected a whole number"),
    "other digits": ({"lepton.version": "١"}, "expected a whole number"),
    "too many digits": ({"lepton.version": "1" * 5000}, "expected a whole number"),
    "no version": ({"lepton.version": None}, "expected a whole number"),
    "no list": ({"lepton.packed": None}, r"together with lepton\.packed"),
    "bad json": ({"lepton.packed": "{"}, r"invalid lepton\.packed"),
    "surrogate": ({"lepton.packed": '{"\ud800": 1}'}, r"invalid lepton\.packed"),
    "a list": ({"lepton.packed": "[]"}, r"invalid lepton\.packed"),
    "duplicate": ({"lepton.packed": '{"a": 1, "a": 1}'}, "appears twice"),
    "no entry": ({"lepton.packed": '{"a": 1}'}, "'a': invalid metadata"),
    "extra field": ({"lepton.packed": entry_json(zero=8)}, "'a': invalid metadata"),
    "unknown format": ({"lepton.packed": entry_json(format="q5")}, "unknown format 'q5'; expected one of q8, q4"),
    "plain format": ({"lepton.packed": entry_json(format="f32")}, "unknown format 'f32'"),
    "format list": ({"lepton.packed": entry_json(format=["q4"])}, "unknown format"),
    "shape of one": ({"lepton.packed": entry_json(shape=[800])}, r"expected two positive whole numbers"),
    "shape zero": ({"lepton.packed": entry_json(shape=[0, 40])}, "expected two positive"),
    "shape float": ({"lepton.packed": entry_json(shape=[20.0, 40])}, "expected two positive"),
    "shape true": ({"lepton.packed": entry_json(shape=[True, 40])}, "expected two positive"),
    "shape huge": ({"lepton.packed": entry_json(shape=[2**40, 2**40])}, "expected two positive"),
    "shape large": ({"lepton.packed": entry_json(shape=[2**31 - 1, 2**31 - 1])}, r"the file holds U8 \[1152\]"),
    "wrong byte count": ({"lepton.packed": entry_json(shape=[33, 40])}, r"expected U8 \[1728\] for q4"),
    "wrong format": ({"lepton.packed": entry_json(format="q8")}, r"expected U8 \[2176\] for q8"),
    "absent": ({"lepton.packed": entry_json(name="z")}, "'z': the file holds nothing"),
    "not bytes": ({"lepton.packed": entry_json(name="c")}, r"'c': the file holds F32 \[5\]"),
}


@pytest.mark.parametrize("case", BAD_PACKED)
def test_bad_packed_metadata(tmp_path: Path, case: str) -> None:
    changes, message = BAD_PACKED[case]

    def change(metadata: dict[str, str]) -> None:
        metadata.update({key: value for key, value in changes.items() if value is not None})
        for key in [key for key, value in changes.items() if value is None]:
            del metadata[key]

    text = refused(packed(tmp_path, change), CheckpointError, message)
    assert "model.safetensors" in text and "\n" not in text


def test_bytes_that_no_metadata_explains_are_no_weight(tmp_path: Path) -> None:
    folder = packed(tmp_path, lambda metadata: metadata.update({"lepton.packed": entry_json()}))
    with Checkpoint.open(folder) as checkpoint:
        assert checkpoint.format("a") == "q4"
        with pytest.raises(CheckpointError, match="'b' has dtype U8"):
            checkpoint.weight("b")


@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=3))
def test_flipped_headers_of_packed_files(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[float, int]]
) -> None:
    folder = packed(tmp_path_factory.mktemp("flip"))
    content = bytearray((folder / "model.safetensors").read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    for where, change in flips:
        content[int(where * header)] ^= change
    (folder / "model.safetensors").write_bytes(bytes(content))
    try:
        checkpoint = Checkpoint.open(folder)
    except CheckpointError as error:
        assert "model.safetensors" in str(error)
        return
    with checkpoint:
        for name in checkpoint.names:
            try:
                weight = checkpoint.weight(name)
            except CheckpointError as error:
                assert "model.safetensors" in str(error)
            else:
                assert weight.to_f32().shape == checkpoint.shape(name)


@given(content=st.binary(max_size=60) | st.text(alphabet='{}[]",:0aNIe1-\\u ', max_size=40).map(str.encode))
def test_random_configs_never_surprise(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = single(tmp_path_factory.mktemp("config"))
    (folder / "config.json").write_bytes(content)
    try:
        Checkpoint.open(folder).close()
    except ConfigError as error:
        assert "config.json" in str(error)
