"""From an adapter's files to what can be written into an engine's rows."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import torch

from graftwork.adapters.changes import BaseWeights, Lowered
from graftwork.adapters.residency.filed import FiledLora, is_plain
from graftwork.adapters.variants.lowering import lower
from graftwork.adapters.variants.variant import read_variant
from graftwork.registry.formats.peft import (
    CONFIG_FILE,
    MAX_HEADER_BYTES,
    WEIGHTS_FILE,
    AdapterLayout,
    read_adapter,
    read_layout,
)

LAYOUTS = 256
"""How many are kept: up to 0.4 MB each for every linear layer of a model of 32."""


def open_adapter(
    folder: Path, base: BaseWeights, dtype: torch.dtype, *, name: str | None = None, base_name: str = "in this engine"
) -> FiledLora | Lowered:
    """The adapter in `folder`, lowered for a base that computes in `dtype`; plain LoRA with its values still in there.

    The names stand for adapter and base in messages. What is lowered is on the CPU. Raises what `read_adapter` and
    `lower` raise.
    """
    known = all((folder / file).is_file() for file in (CONFIG_FILE, WEIGHTS_FILE))
    layout = replace(_layout(_said(folder)), root=folder) if known else read_adapter(folder)
    if is_plain(layout):
        return FiledLora(layout, layout.foldable)
    return lower(read_variant(layout), base, dtype, adapter_name=name, base_name=base_name)


def forget_layouts() -> None:
    """Read and check the next adapter's files as if nothing like them had been met."""
    _layout.cache_clear()


@dataclass(frozen=True, slots=True)
class _Said:
    """What an adapter's files say of themselves; versions of one adapter mostly differ in nothing but values."""

    config: bytes
    header: bytes
    size: int
    """Of the file with the values."""
    folder: Path = field(compare=False)


def _said(folder: Path) -> _Said:
    with (folder / WEIGHTS_FILE).open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(min(length, MAX_HEADER_BYTES))
        size = os.fstat(file.fileno()).st_size
    return _Said((folder / CONFIG_FILE).read_bytes(), header, size, folder)


@lru_cache(maxsize=LAYOUTS)
def _layout(said: _Said) -> AdapterLayout:
    """What was said, read and checked; whatever else lies in the folder is not used."""
    return read_layout(said.folder)
