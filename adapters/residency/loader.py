"""From an adapter's files to what can be written into an engine's rows."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch

from graftwork.adapters.changes import BaseWeights, Lowered
from graftwork.adapters.residency.filed import FiledLora, is_plain
from graftwork.adapters.variants.lowering import lower
from graftwork.adapters.variants.variant import read_variant
from graftwork.registry.formats.peft import CONFIG_FILE, WEIGHTS_FILE, AdapterLayout, read_adapter, read_layout

LAYOUTS = 1024
"""How many are kept: up to 0.4 MB each for every linear layer of a model of 32."""


def open_adapter(
    folder: Path, base: BaseWeights, dtype: torch.dtype, *, name: str | None = None, base_name: str = "in this engine"
) -> FiledLora | Lowered:
    """The adapter in `folder`, lowered for a base that computes in `dtype`; plain LoRA with its values still in there.

    The names stand for adapter and base in messages. What is lowered is on the CPU. Raises what `read_adapter` and
    `lower` raise.
    """
    files = [folder / file for file in (CONFIG_FILE, WEIGHTS_FILE)]
    known = all(file.is_file() for file in files)
    layout = _layout(folder, tuple(_stamp(file) for file in files)) if known else read_adapter(folder)
    if is_plain(layout):
        return FiledLora(layout, layout.foldable)
    return lower(read_variant(layout), base, dtype, adapter_name=name, base_name=base_name)


def forget_layouts() -> None:
    """Read and check the next adapter's files as if for the first time."""
    _layout.cache_clear()


@lru_cache(maxsize=LAYOUTS)
def _layout(folder: Path, stamps: tuple[tuple[int, int, int], ...]) -> AdapterLayout:
    """A folder's layout, read and checked once as long as its files do not change; what else lies in it is not used."""
    return read_layout(folder)


def _stamp(file: Path) -> tuple[int, int, int]:
    status = file.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size
