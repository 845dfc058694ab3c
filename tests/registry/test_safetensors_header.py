from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from graftwork.errors import GraftworkError, InvalidSafetensors, SourceNotFound, TooLarge, UnsafeFile
from graftwork.registry.formats.safetensors import DTYPE_BYTES, build_header, read_header

NUMPY_DTYPES = {
    "F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1", "U8": "u1", "BOOL": "?",
}  # fmt: skip
NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_:/-]{0,20}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)
TENSORS = st.dictionaries(NAMES, st.tuples(st.sampled_from(sorted(NUMPY_DTYPES)), SHAPES), max_size=8)
in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def write(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(dtype: str = "F32", shape: object = (2,), begin: object = 0, end: object = 8) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@in_one_folder
@given(TENSORS, st.dictionaries(TEXTS, TEXTS, max_size=3))
def test_files_written_by_the_safetensors_library_are_read(
    tmp_path: Path, spec: dict[str, tuple[str, tuple[int, ...]]], metadata: dict[str, str]
) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.integers(0, 100, size=shape).astype(NUMPY_DTYPES[dtype]) for name, (dtype, shape) in spec.items()
    }
    path = tmp_path / "x.safetensors"
    metadata = {
        key.encode("utf-8", "ignore").decode(): text.encode("utf-8", "ignore").decode()
        for key, text in metadata.items()
    }
    save_file(arrays, path, metadata or None)
    header = read_header(path)
    assert header.metadata == metadata
    assert header.tensors.keys() == arrays.keys()
    content = path.read_bytes()
    assert header.size == len(content)
    for name, info in header.tensors.items():
        assert (info.dtype, info.shape) == spec[name]
        assert content[info.begin : info.end] == arrays[name].tobytes()
        assert (info.nbytes, info.numel) == (arrays[name].nbytes, arrays[name].size)


@in_one_folder
@given(TENSORS)
def test_the_safetensors_library_reads_files_that_start_with_a_built_header(
    tmp_path: Path, spec: dict[str, tuple[str, tuple[int, ...]]]
) -> None:
    start, header = build_header([(name, *rest) for name, rest in spec.items()], {"format": "pt"})
    data = bytes(index % 2 for index in range(header.size - header.data_offset))
    path = tmp_path / "x.safetensors"
    path.write_bytes(start + data)
    assert header.data_offset % 8 == 0
    assert header == read_header(path)
    assert list(header.tensors) == [*sorted(header.tensors, key=lambda name: header.tensors[name].begin)]
    with safe_open(path, "numpy") as file:
        assert file.metadata() == {"format": "pt"}
    loaded = load_file(path)
    for name, (dtype, shape) in spec.items():
        info = header.tensors[name]
        expected = np.frombuffer((start + data)[info.begin : info.end], NUMPY_DTYPES[dtype]).reshape(shape)
        np.testing.assert_array_equal(loaded[name], expected)


def test_two_tensors_of_one_name_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="same name"):
        build_header([("a", "F32", (1,)), ("a", "F32", (1,))])


def test_bfloat16_and_float8_have_their_sizes(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file as save_torch

    tensors = {
        "BF16": torch.zeros(3, 5, dtype=torch.bfloat16),
        "F8_E4M3": torch.zeros(7, dtype=torch.float8_e4m3fn),
        "F8_E5M2": torch.zeros(9, dtype=torch.float8_e5m2),
    }
    save_torch(tensors, tmp_path / "x.safetensors")
    header = read_header(tmp_path / "x.safetensors")
    assert {name: info.dtype for name, info in header.tensors.items()} == {name: name for name in tensors}
    assert set(tensors) | set(NUMPY_DTYPES) == set(DTYPE_BYTES)


FAULTS: dict[str, tuple[object, bytes, str]] = {
    "an overlap": ({"a": entry(), "b": entry(begin=4, end=12)}, bytes(12), "'b' overlaps"),
    "the same bytes twice": ({"a": entry(), "b": entry()}, bytes(8), "overlaps"),
    "a hole": ({"a": entry(), "b": entry(begin=12, end=20)}, bytes(20), "hole"),
    "a hole in front": ({"a": entry(begin=4, end=12)}, bytes(12), "hole"),
    "bytes at the end": ({"a": entry()}, bytes(9), "1 bytes follow"),
    "missing data": ({"a": entry()}, bytes(7), "cut short"),
    "an unknown dtype": ({"a": entry(dtype="F128")}, bytes(8), "F128"),
    "a dtype that is not text": ({"a": entry(dtype=["F32"])}, bytes(8), "dtype"),  # type: ignore[arg-type]
    "a shape of another size": ({"a": entry(shape=[3])}, bytes(8), "different number"),
    "a negative dimension": ({"a": entry(shape=[-2, -1])}, bytes(8), "whole numbers"),
    "a fractional dimension": ({"a": entry(shape=[2.0])}, bytes(8), "whole numbers"),
    "a boolean dimension": ({"a": entry(shape=[2, True])}, bytes(8), "whole numbers"),
    "offsets that run backwards": ({"a": entry(begin=8, end=0)}, bytes(8), "bytes of data"),
    "a huge offset": ({"a": entry(begin=2**64, end=2**64 + 8)}, bytes(8), "hole"),
    "three offsets": ({"a": {**entry(), "data_offsets": [0, 4, 8]}}, bytes(8), "whole numbers"),
    "a missing field": ({"a": {"dtype": "F32", "shape": [2]}}, bytes(8), "exactly"),
    "an extra field": ({"a": {**entry(), "code": "x"}}, bytes(8), "exactly"),
    "an entry that is no object": ({"a": [1]}, bytes(8), "exactly"),
    "a NUL in a name": ({"a\0b": entry()}, bytes(8), "tensor name"),
    "a path as a name": ({"../../etc/passwd": entry()}, bytes(8), "tensor name"),
    "an absolute path as a name": ({"/etc/passwd": entry()}, bytes(8), "tensor name"),
    "an empty name": ({"": entry()}, bytes(8), "tensor name"),
    "a duplicate tensor": (
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        bytes(8), "twice",
    ),
    "a duplicate field": (b'{"a":{"dtype":"F32","dtype":"I32","shape":[2],"data_offsets":[0,8]}}', bytes(8), "twice"),
    "no JSON": (b"{", b"", "cannot be parsed"),
    "no UTF-8": (b'{"\xff":1}', b"", "cannot be parsed"),
    "a list": (b"[]", b"", "not a JSON object"),
    "deep nesting": (b"[" * 100_000, b"", "cannot be parsed"),
    "a number without end": (b'{"a":' + b"9" * 10_000 + b"}", b"", "cannot be parsed"),
    "metadata that is no text": ({"__metadata__": {"a": 1}}, b"", "__metadata__"),
    "a list as metadata": ({"__metadata__": []}, b"", "__metadata__"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_malformed_file_is_refused(tmp_path: Path, fault: str) -> None:
    header, data, message = FAULTS[fault]
    path = write(tmp_path / "x.safetensors", header, data)
    with pytest.raises(InvalidSafetensors, match=message):
        read_header(path, label="x")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": entry(shape=[2**31, 0], end=0)}, "shape"),
        ({"a": entry(shape=[1] * 9, end=4)}, "dimensions"),
        ({f"t{index}": entry(shape=[0], end=0) for index in range(100_001)}, "100001 tensors"),
        (b"{" + b" " * 16_000_000 + b"}", "header"),
    ],
)
def test_a_file_beyond_a_limit_is_refused(tmp_path: Path, header: object, message: str) -> None:
    with pytest.raises(TooLarge, match=message):
        read_header(write(tmp_path / "x.safetensors", header, bytes(8)))


def test_a_pickle_under_another_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(pickle.dumps({"a": 1}, protocol=4))
    with pytest.raises(UnsafeFile, match="pickle"):
        read_header(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    with pytest.raises(UnsafeFile, match="zip"):
        read_header(path)


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound):
        read_header(tmp_path / "absent.safetensors")
    os.mkfifo(tmp_path / "fifo.safetensors")
    for path in (tmp_path, tmp_path / "fifo.safetensors"):
        with pytest.raises(InvalidSafetensors, match="regular file"):
            read_header(path)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": np.arange(6, dtype="f4").reshape(2, 3), "b": np.zeros(3, "i8")}, path)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(InvalidSafetensors):
            read_header(path)


def corrupted(edit: Callable[[bytearray, int, int], None]) -> Callable[[bytes, int, int], bytes]:
    def apply(content: bytes, position: int, value: int) -> bytes:
        copy = bytearray(content)
        edit(copy, position % len(copy), value)
        return bytes(copy)

    return apply


EDITS = [
    corrupted(lambda content, position, value: content.__setitem__(position, value)),
    corrupted(lambda content, position, value: content.insert(position, value)),
    corrupted(lambda content, position, value: content.__delitem__(position)),
]


@in_one_folder
@given(st.lists(st.tuples(st.sampled_from(EDITS), st.integers(0, 300), st.integers(0, 255)), min_size=1, max_size=4))
def test_what_is_accepted_after_corruption_the_safetensors_library_accepts_too(
    tmp_path: Path, edits: list[tuple[Callable[[bytes, int, int], bytes], int, int]]
) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": np.zeros((2, 3), "f4"), "b": np.zeros(3, "i8")}, path, {"format": "pt"})
    content = path.read_bytes()
    for edit, position, value in edits:
        content = edit(content, position, value)
    path.write_bytes(content)
    try:
        header = read_header(path)
    except GraftworkError:
        return
    with safe_open(path, "numpy") as file:
        assert set(file.keys()) == set(header.tensors)
        for name in file.keys():  # noqa: SIM118 (it is not a mapping)
            assert tuple(file.get_slice(name).get_shape()) == header.tensors[name].shape
