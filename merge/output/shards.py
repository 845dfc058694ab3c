"""The weight files of an output and what is where in them, before a byte is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graftwork.registry.formats.safetensors import DTYPE_BYTES, Header, build_header

FORMAT = {"format": "pt"}
SINGLE_FILE = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Shard:
    """One weight file of the output: its tensors as (name, dtype, shape), in order."""

    file: str
    tensors: tuple[tuple[str, str, tuple[int, ...]], ...]

    def start(self) -> tuple[bytes, Header]:
        """The file's first bytes and its header with absolute offsets."""
        return build_header(self.tensors, FORMAT)


def split_into_shards(tensors: Sequence[tuple[str, str, tuple[int, ...]]], limit: int) -> tuple[Shard, ...]:
    """Tensors in order, in as few files as keep each under `limit` bytes; a larger tensor has a file of its own."""
    groups: list[list[tuple[str, str, tuple[int, ...]]]] = [[]]
    filled = 0
    for tensor in tensors:
        size = tensor_bytes(tensor[1], tensor[2])
        if groups[-1] and filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += size
    if len(groups) == 1:
        return (Shard(SINGLE_FILE, tuple(groups[0])),)
    count = len(groups)
    return tuple(
        Shard(f"model-{number:05d}-of-{count:05d}.safetensors", tuple(group))
        for number, group in enumerate(groups, start=1)
    )


def tensor_bytes(dtype: str, shape: Sequence[int]) -> int:
    """Bytes of a tensor's data."""
    size = DTYPE_BYTES[dtype]
    for dimension in shape:
        size *= dimension
    return size
