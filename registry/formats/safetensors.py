"""The header of a safetensors file: read with suspicion, written exactly.

A file is an 8-byte little-endian length n, n bytes of JSON, and the tensors' bytes without holes or overlaps
(https://github.com/huggingface/safetensors#format). Tensor data is never read here.
"""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from graftwork.errors import InvalidSafetensors, SourceNotFound, TooLarge, UnsafeFile
from graftwork.registry.formats.config import unique_keys

DTYPE_BYTES: Mapping[str, int] = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
MAX_HEADER_BYTES = 16_000_000
MAX_TENSORS = 100_000
MAX_RANK = 8
MAX_DIMENSION = 2**31 - 1
TENSOR_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/@+-]{0,511}", re.ASCII)
DISGUISES = {b"PK\x03\x04": "a zip archive (a pickled checkpoint)"} | {
    bytes([0x80, protocol]): "a pickle" for protocol in range(2, 6)
}
LFS_POINTER = b"version "
"""The first eight bytes of the text that git checks out when Git LFS has not fetched the file."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor's bytes are: `begin` and `end` count from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes of data."""
        return self.end - self.begin

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors file says of itself; `tensors` is in the order of the bytes, `size` is the whole file's."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    data_offset: int
    size: int


def read_header(path: Path, *, label: str | None = None, max_bytes: int = MAX_HEADER_BYTES) -> Header:
    """Read and check the header of `path`, which messages call `label`.

    Raises InvalidSafetensors, TooLarge (header, number of tensors, dimensions), UnsafeFile (a pickle or zip under
    another name), SourceNotFound.
    """
    label = label or str(path)
    if not path.exists():
        raise SourceNotFound(source=label, expected="a .safetensors file")
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise InvalidSafetensors(path=label, reason="it is not a regular file")
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or 8 + length > status.st_size:
            _refuse_disguise(start, label)
            raise InvalidSafetensors(
                path=label,
                reason=f"it is cut short: {status.st_size} bytes, and its header alone would be {length + 8}",
            )
        if length > max_bytes:
            raise TooLarge(what=f"The header of {label}", actual=f"{length} bytes", limit=f"{max_bytes} bytes")
        text = file.read(length)
    return _parse(text, status.st_size, label)


def build_header(
    tensors: Sequence[tuple[str, str, Sequence[int]]], metadata: Mapping[str, str] | None = None
) -> tuple[bytes, Header]:
    """The first bytes of a file that will hold `tensors` (name, dtype, shape) in this order, and its header.

    The bytes are the length and the JSON, padded with spaces so that the data starts at a multiple of 8.
    """
    if len({name for name, _, _ in tensors}) != len(tensors):
        raise ValueError("two tensors have the same name")
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, dtype, shape in tensors:
        begin, end = end, end + DTYPE_BYTES[dtype] * math.prod(shape)
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    start = len(text).to_bytes(8, "little") + text
    return start, _parse(text, len(start) + end, "the header to write")


def _refuse_disguise(start: bytes, label: str) -> None:
    for magic, what in DISGUISES.items():
        if start.startswith(magic):
            raise UnsafeFile(path=label, reason=f"it is {what} and not a safetensors file")
    if start.startswith(LFS_POINTER):
        raise InvalidSafetensors(path=label, reason="it is what Git LFS keeps in place of the file: run git lfs pull")


def _parse(text: bytes, size: int, label: str) -> Header:
    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise InvalidSafetensors(path=label, reason=f"its header cannot be parsed ({error})") from None
    if not isinstance(entries, dict):
        raise InvalidSafetensors(path=label, reason="its header is not a JSON object")
    metadata = _metadata(entries.pop("__metadata__", {}), label)
    if len(entries) > MAX_TENSORS:
        raise TooLarge(what=label, actual=f"{len(entries)} tensors", limit=f"{MAX_TENSORS}")
    offset = 8 + len(text)
    infos = [_tensor(name, entry, offset, label) for name, entry in entries.items()]
    infos.sort(key=lambda info: (info.begin, info.end))
    _check_contiguous(infos, offset, size, label)
    return Header({info.name: info for info in infos}, metadata, offset, size)


def _metadata(value: object, label: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise InvalidSafetensors(path=label, reason="its __metadata__ is not a map from strings to strings")
    return value


def _tensor(name: str, entry: object, offset: int, label: str) -> TensorInfo:
    if ".." in name or not TENSOR_NAME.fullmatch(name):
        expected = "1 to 512 letters, digits and any of _ . : / @ + -, without '..'"
        raise InvalidSafetensors(path=label, reason=f"the tensor name {name[:80]!r} is not accepted: {expected}")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise InvalidSafetensors(path=label, reason=f"the entry of {name!r} is not exactly dtype, shape, data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        known = ", ".join(DTYPE_BYTES)
        raise InvalidSafetensors(path=label, reason=f"{name!r} has the dtype {dtype!r}; accepted are {known}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise InvalidSafetensors(path=label, reason=f"the shape or the offsets of {name!r} are not whole numbers")
    if len(shape) > MAX_RANK or max(shape, default=0) > MAX_DIMENSION:
        limit = f"{MAX_RANK} dimensions of at most {MAX_DIMENSION}"
        raise TooLarge(what=f"The tensor {name!r} of {label}", actual=f"the shape {shape}", limit=limit)
    begin, end = offsets
    if end - begin != DTYPE_BYTES[dtype] * math.prod(shape):
        reason = f"{name!r} has {end - begin} bytes of data, and {dtype} {shape} takes a different number"
        raise InvalidSafetensors(path=label, reason=reason)
    return TensorInfo(name, dtype, tuple(shape), offset + begin, offset + end)


def _are_sizes(value: object) -> bool:
    return isinstance(value, list) and {*map(type, value)} <= {int} and min(value, default=0) >= 0


def _check_contiguous(infos: Sequence[TensorInfo], offset: int, size: int, label: str) -> None:
    end = offset
    for info in infos:
        if info.begin != end:
            fault = "overlaps the tensor before it" if info.begin < end else "leaves a hole before it"
            raise InvalidSafetensors(path=label, reason=f"the data of {info.name!r} {fault}")
        end = info.end
    if end > size:
        raise InvalidSafetensors(path=label, reason=f"it is cut short: {size} bytes, and its tensors end at {end}")
    if end < size:
        raise InvalidSafetensors(path=label, reason=f"{size - end} bytes follow its last tensor")
