"""One safetensors file: reading what the safetensors library writes, writing what it reads."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from lepton_edge.checkpoint.safetensors import DTYPE_BYTES, Entry, SafetensorsFile, write_safetensors
from lepton_edge.errors import CheckpointError, RequestError

NUMPY = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "U8": np.uint8, "BOOL": np.bool_}


def array(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).standard_normal(shape) * 10, NUMPY[dtype])


def entry(name: str, dtype: str, shape: tuple[int, ...], data: bytes) -> Entry:
    whole = np.frombuffer(data, np.uint8)
    return Entry(name, dtype, shape, lambda: [whole[:3], whole[3:]])


def test_reads_what_the_library_writes(tmp_path: Path) -> None:
    arrays = {name: array(name, (3, 5, 2), seed) for seed, name in enumerate(NUMPY)}
    arrays["scalar"], arrays["empty"] = array("F32", ()), array("F32", (0, 7))
    safetensors.numpy.save_file(arrays, tmp_path / "a.safetensors", metadata={"format": "np", "who": "é"})
    with SafetensorsFile(tmp_path / "a.safetensors") as file:
        assert file.metadata == {"format": "np", "who": "é"}
        assert set(file.tensors) == set(arrays)
        for name, expected in arrays.items():
            info = file.tensors[name]
            assert info.shape == expected.shape
            assert file.bytes(name).tobytes() == expected.tobytes()
        assert file.tensors["F16"].dtype == "F16"


def test_views_are_read_only_and_not_copied(tmp_path: Path) -> None:
    safetensors.numpy.save_file({"a": array("F32", (4, 4))}, tmp_path / "a.safetensors")
    file = SafetensorsFile(tmp_path / "a.safetensors")
    view = file.bytes("a")
    assert view.dtype == np.uint8 and view.shape == (64,) and not view.flags.writeable
    assert np.shares_memory(view, file.bytes("a"))
    file.close()
    np.testing.assert_array_equal(view.view(np.float32).reshape(4, 4), array("F32", (4, 4)))
    with pytest.raises(CheckpointError, match=r"a\.safetensors: was closed"):
        file.bytes("a")


@given(
    shapes=st.lists(
        st.tuples(st.sampled_from(sorted(NUMPY)), st.lists(st.integers(0, 5), max_size=4).map(tuple)), max_size=6
    ),
    metadata=st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3),
)
def test_library_reads_what_we_write(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[tuple[str, tuple[int, ...]]], metadata: dict[str, str]
) -> None:
    path = tmp_path_factory.mktemp("written") / "a.safetensors"
    arrays = {f"t{i}": array(dtype, shape, i) for i, (dtype, shape) in enumerate(shapes)}
    entries = [entry(f"t{i}", dtype, shape, arrays[f"t{i}"].tobytes()) for i, (dtype, shape) in enumerate(shapes)]
    write_safetensors(path, entries, metadata)
    loaded = safetensors.numpy.load_file(path)
    assert loaded.keys() == arrays.keys()
    for name, expected in arrays.items():
        assert loaded[name].dtype == expected.dtype and loaded[name].shape == expected.shape
        assert loaded[name].tobytes() == expected.tobytes()
    with SafetensorsFile(path) as file:
        assert file.metadata == metadata
        assert all(file.bytes(name).tobytes() == expected.tobytes() for name, expected in arrays.items())


def test_every_dtype_agrees_with_the_library(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors(path, [entry(d, d, (2, 3), bytes(range(6)) * n) for d, n in DTYPE_BYTES.items()])
    with safetensors.safe_open(path, "numpy") as theirs, SafetensorsFile(path) as ours:
        assert set(theirs.keys()) == set(DTYPE_BYTES)
        for dtype in DTYPE_BYTES:
            assert theirs.get_slice(dtype).get_dtype() == dtype
            assert theirs.get_slice(dtype).get_shape() == [2, 3]
            assert ours.tensors[dtype].shape == (2, 3)


def test_data_starts_at_a_multiple_of_64(tmp_path: Path) -> None:
    for length in range(1, 70):
        write_safetensors(tmp_path / "a", [entry("n" * length, "U8", (5,), b"12345")])
        with SafetensorsFile(tmp_path / "a") as file:
            assert file.tensors["n" * length].start % 64 == 0


def test_writer_checks_its_arguments(tmp_path: Path) -> None:
    path = tmp_path / "a"
    good = entry("a", "U8", (3,), b"123")
    with pytest.raises(RequestError, match="'a' is given twice"):
        write_safetensors(path, [good, good])
    with pytest.raises(RequestError, match="reserved"):
        write_safetensors(path, [entry("__metadata__", "U8", (3,), b"123")])
    with pytest.raises(RequestError, match="unknown dtype 'X'"):
        write_safetensors(path, [entry("a", "X", (3,), b"123")])
    with pytest.raises(RequestError, match="'a': 3 bytes given; expected 4"):
        write_safetensors(path, [entry("a", "U8", (4,), b"123")])


def raw_file(path: Path, header: object, data: bytes = b"") -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return path


def tensor(dtype: object = "U8", shape: object = (4,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


BAD_HEADERS = {
    "not json": (b"{]", "invalid safetensors header"),
    "not utf-8": (b'{"\xff": 1}', "invalid safetensors header"),
    "cut json": (b'{"a": {"dtype": "U8"', "invalid safetensors header"),
    "an array": (b"[]", "not a safetensors file"),
    "leading space": (b" {}", "not a safetensors file"),
    "no header": (b"", "not a safetensors file"),
    "trailing rubbish": (b"{}x", "invalid safetensors header"),
    "duplicate tensor": (b'{"a": {}, "a": {}}', "the key 'a' appears twice"),
    "duplicate field": (b'{"a": {"dtype": "U8", "dtype": "U8"}}', "the key 'dtype' appears twice"),
    "nan": (b'{"a": NaN}', "NaN is not a JSON number"),
    "huge float": (b'{"a": 1e999}', "1e999 is too large"),
    "too deep": (b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}", "nested"),
    "rather deep": (b'{"a":' + b"[" * 70 + b"]" * 70 + b"}", "nested more than 64 deep"),
    "huge integer": (b'{"a": ' + b"9" * 5000 + b"}", "invalid"),
    "metadata list": ({"__metadata__": []}, "__metadata__"),
    "metadata number": ({"__metadata__": {"a": 1}}, "__metadata__"),
    "entry list": ({"a": []}, "'a': invalid header entry"),
    "entry incomplete": ({"a": {"dtype": "U8", "shape": [4]}}, "'a': invalid header entry"),
    "unprintable name": ({"a\nb": tensor()}, "invalid name"),
    "surrogate name": (b'{"\\ud800": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}', "invalid name"),
    "unknown dtype": ({"a": tensor(dtype="F31")}, "'a': unknown dtype 'F31'; expected one of BOOL"),
    "dtype list": ({"a": tensor(dtype=["U8"])}, "unknown dtype"),
    "shape number": ({"a": tensor(shape=4)}, "shape 4; expected a list"),
    "shape negative": ({"a": tensor(shape=[-4])}, r"shape \[-4\]; expected a list"),
    "shape float": ({"a": tensor(shape=[4.0])}, "expected a list"),
    "shape true": ({"a": tensor(shape=[True, 4])}, "expected a list"),
    "shape nested": ({"a": tensor(shape=[[4]])}, "expected a list"),
    "shape of many dimensions": ({"a": tensor(shape=[1] * 17)}, "at most 16"),
    "shape overflows": ({"a": tensor(shape=[2**32, 2**32], offsets=[0, 0])}, "too large"),
    "shape overflows to 4": ({"a": tensor(shape=[2**62 + 1, 4])}, "too large"),
    "shape overflows beside 0": ({"a": tensor(shape=[0, 2**40, 2**40], offsets=[0, 0])}, "too large"),
    "shape astronomic": ({"a": tensor(shape=[10**4000, 10**4000])}, "too large"),
    "size mismatch": ({"a": tensor(shape=[5])}, "expected 5"),
    "dtype mismatch": ({"a": tensor(dtype="F32")}, "expected 16"),
    "offsets short": ({"a": tensor(offsets=[0])}, "data_offsets"),
    "offsets long": ({"a": tensor(offsets=[0, 4, 8])}, "data_offsets"),
    "offsets negative": ({"a": tensor(offsets=[-4, 0])}, "data_offsets"),
    "offsets reversed": ({"a": tensor(offsets=[4, 0])}, "data_offsets"),
    "offsets float": ({"a": tensor(offsets=[0, 4.0])}, "data_offsets"),
    "offsets text": ({"a": tensor(offsets="04")}, "data_offsets"),
    "offsets beyond the end": ({"a": tensor(shape=[8], offsets=[0, 8])}, "is truncated"),
    "offsets far beyond": ({"a": tensor(shape=[2**50], offsets=[0, 2**50])}, "is truncated"),
    "hole at the start": ({"a": tensor(shape=[2], offsets=[2, 4])}, "leaves a hole"),
    "hole between": (
        {"a": tensor(shape=[1], offsets=[0, 1]), "b": tensor(shape=[1], offsets=[3, 4])},
        "'b' leaves a hole",
    ),
    "overlap": ({"a": tensor(shape=[3], offsets=[0, 3]), "b": tensor(shape=[2], offsets=[2, 4])}, "'b' overlaps"),
    "same place": ({"a": tensor(), "b": tensor()}, "'b' overlaps"),
    "bytes left over": ({"a": tensor(shape=[3], offsets=[0, 3])}, "1 bytes after the last tensor"),
    "no tensors but bytes": ({}, "4 bytes after the last tensor"),
}


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_bad_headers(tmp_path: Path, case: str) -> None:
    header, message = BAD_HEADERS[case]
    path = raw_file(tmp_path / "bad.safetensors", header, b"1234")
    with pytest.raises(CheckpointError, match=message) as caught:
        SafetensorsFile(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has 0 bytes; expected at least 8"),
        (b"1234567", "has 7 bytes"),
        (b"\x02" + bytes(7), "truncated in its header of 2 bytes"),
        ((100).to_bytes(8, "little") + b"{}", "truncated in its header of 100 bytes"),
        ((100_000_001).to_bytes(8, "little") + b"{}", "expected at most 100000000"),
        (b"\xff" * 8 + b"{}", "header has 18446744073709551615 bytes"),
    ],
)
def test_bad_header_lengths(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        SafetensorsFile(path)
    assert str(path) in str(caught.value)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    for path, message in [
        (tmp_path, "is not a file"),
        (tmp_path / "absent", "is missing"),
        (tmp_path / ("x" * 5000), "cannot be opened"),
        (Path("nul\0"), "cannot be opened"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            SafetensorsFile(path)


def valid_bytes(folder: Path) -> bytes:
    arrays = {"a": array("F32", (3, 4)), "b": array("U8", (5,)), "c": array("F16", (2, 2, 1)), "d": array("F32", (0,))}
    safetensors.numpy.save_file(arrays, folder / "valid.safetensors", metadata={"k": "v"})
    return (folder / "valid.safetensors").read_bytes()


def open_hostile(path: Path, content: bytes) -> None:
    """Either our error, with the path, or a file all of whose tensors can be read in full."""
    path.write_bytes(content)
    try:
        file = SafetensorsFile(path)
    except CheckpointError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return
    with file:
        total = 0
        for name, info in file.tensors.items():
            view = file.bytes(name)
            assert view.size == info.stop - info.start == np.prod(info.shape) * DTYPE_BYTES[info.dtype]
            assert int(view.sum()) >= 0
            total += view.size
        header = int.from_bytes(content[:8], "little")
        assert total == len(content) - 8 - header


@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bytes_never_surprise(tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[float, int]]) -> None:
    folder = tmp_path_factory.mktemp("flip")
    content = bytearray(valid_bytes(folder))
    for where, change in flips:
        content[int(where * len(content))] ^= change
    open_hostile(folder / "hostile.safetensors", bytes(content))


def test_every_single_flip_of_the_header(tmp_path: Path) -> None:
    content = valid_bytes(tmp_path)
    for position in range(8 + int.from_bytes(content[:8], "little")):
        for change in (1, 2, 4, 0x20, 0x80):
            hostile = bytearray(content)
            hostile[position] ^= change
            open_hostile(tmp_path / "hostile.safetensors", bytes(hostile))


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    content = valid_bytes(tmp_path)
    for length in range(len(content)):
        path = tmp_path / "cut.safetensors"
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"cut\.safetensors"):
            SafetensorsFile(path)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(2**64),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(
    header=st.dictionaries(
        st.sampled_from(["a", "b", "__metadata__", ""]),
        JSON_VALUES
        | st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["U8", "F32", "F99"]) | JSON_VALUES,
                "shape": st.lists(st.integers(-1, 4) | st.integers(), max_size=3) | JSON_VALUES,
                "data_offsets": st.lists(st.integers(-1, 9) | st.integers(), max_size=3) | JSON_VALUES,
            }
        ),
        max_size=3,
    ),
    data=st.binary(max_size=12),
)
def test_random_headers_never_surprise(
    tmp_path_factory: pytest.TempPathFactory, header: dict[str, object], data: bytes
) -> None:
    raw = json.dumps(header).encode()
    content = len(raw).to_bytes(8, "little") + raw + data
    open_hostile(tmp_path_factory.mktemp("header") / "hostile.safetensors", content)


def opened(tmp_path: Path) -> tuple[Path, SafetensorsFile]:
    path = tmp_path / "used.safetensors"
    path.write_bytes(valid_bytes(tmp_path))
    file = SafetensorsFile(path)
    file.check_unchanged()
    return path, file


def test_a_file_cut_after_opening_is_noticed(tmp_path: Path) -> None:
    path, file = opened(tmp_path)
    size = path.stat().st_size
    with open(path, "r+b") as f:
        f.truncate(20)
    for use in (file.check_unchanged, lambda: file.bytes("a")):
        with pytest.raises(CheckpointError, match=rf"used\.safetensors: has 20 bytes; expected {size}"):
            use()


def test_a_file_rewritten_after_opening_is_noticed(tmp_path: Path) -> None:
    path, file = opened(tmp_path)
    with open(path, "r+b") as f:
        f.write(b"1")
    os.utime(path, ns=(1, 1))
    with pytest.raises(CheckpointError, match=r"used\.safetensors: was written to"):
        file.check_unchanged()


@pytest.mark.skipif("sys.platform == 'win32'", reason="a mapped file cannot be deleted on Windows")
def test_a_file_deleted_or_replaced_after_opening_is_noticed(tmp_path: Path) -> None:
    path, file = opened(tmp_path)
    (tmp_path / "other").write_bytes(path.read_bytes())
    (tmp_path / "other").replace(path)
    with pytest.raises(CheckpointError, match=r"used\.safetensors: was deleted or replaced"):
        file.check_unchanged()
    file.close()
    with SafetensorsFile(path) as file:
        path.unlink()
        with pytest.raises(CheckpointError, match=r"used\.safetensors: was deleted"):
            file.bytes("b")


def test_unknown_tensor(tmp_path: Path) -> None:
    _, file = opened(tmp_path)
    with file, pytest.raises(CheckpointError, match=r"used\.safetensors: holds no tensor 'z'"):
        file.bytes("z")
