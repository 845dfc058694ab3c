"""The scan for NaN and infinite weights, by bit patterns: an exponent of all ones."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from graftwork.errors import InputChanged, NonFiniteTensor
from graftwork.registry.formats.safetensors import Header, TensorInfo

EXPONENTS: Mapping[str, tuple[str, int]] = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F8_E5M2": ("u1", 0x7C),
    "F8_E4M3": ("u1", 0x7F),
}
"""The unsigned integer of each dtype's width, and the bits that are all set in what is not finite."""
CHUNK_BYTES = 4 * 1024 * 1024


def check_finite(path: Path, header: Header, *, label: str) -> None:
    """Raise NonFiniteTensor naming the first tensor of the file, which messages call `label`, that is not finite.

    Raises InputChanged when the file has become shorter than its header says.
    """
    with path.open("rb") as file:
        for info in header.tensors.values():
            if info.dtype in EXPONENTS and (count := _count(file.fileno(), info, label)):
                raise NonFiniteTensor(tensor=info.name, path=label, count=count)


def _count(file: int, info: TensorInfo, label: str) -> int:
    import numpy as np

    integer, exponent = EXPONENTS[info.dtype]
    found = 0
    for begin in range(info.begin, info.end, CHUNK_BYTES):
        chunk = os.pread(file, min(CHUNK_BYTES, info.end - begin), begin)
        if begin + len(chunk) < min(begin + CHUNK_BYTES, info.end):
            raise InputChanged(path=label)
        bits = np.frombuffer(chunk, integer)
        found += int(np.count_nonzero(bits & exponent == exponent))
    return found
