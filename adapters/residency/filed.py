"""LoRA that stays in its file until the rows that it goes into are known."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path

import torch
from torch import Tensor

from graftwork.adapters.changes import Change, FactorRows, Factors, Gate, Lowered
from graftwork.errors import InputChanged, NonFiniteTensor
from graftwork.kernels.lora_fill import PoolRows, lora_fill
from graftwork.registry.formats.adapters.kinds import Kind
from graftwork.registry.formats.peft import WEIGHTS_FILE, AdapterLayout, LoraModule
from graftwork.registry.formats.safetensors import TensorInfo

READ_BYTES = 1 << 20
"""Of a file's bytes on their way from the page cache to the rows, unless one tensor has more: they should still be in
the second-level cache when the rows are written."""
BUFFER_BYTES = 1 << 22
"""The most that each thread which reads keeps for them."""

_kept = threading.local()


@dataclass(frozen=True, slots=True)
class FiledLora:
    """LoRA on linear layers and nothing else, whose every tensor was checked but for its values.

    Its host memory is the system's page cache: from there to rows costs little more than from a copy.
    """

    layout: AdapterLayout
    modules: Mapping[str, LoraModule]
    """By the path of the module in the base."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, int]]:
        """(in, out) of the modules with a low-rank change."""
        return {name: (module.in_features, module.out_features) for name, module in self.modules.items()}

    @property
    def ranks(self) -> Mapping[str, int]:
        """The rank of every module that has a low-rank change."""
        return {name: module.rank for name, module in self.modules.items()}

    @property
    def rank(self) -> int:
        """The largest rank: how many rank rows it needs."""
        return max(self.ranks.values(), default=0)

    @property
    def gates(self) -> Mapping[str, Gate]:
        """None."""
        return {}

    @property
    def device_bytes(self) -> int:
        """It takes rank rows and nothing else."""
        return 0

    def renamed(self, name_of: Callable[[str], str | None]) -> FiledLora:
        """With its modules under other names; without those that have none."""
        names = {name_of(name): module for name, module in self.modules.items()}
        return replace(self, modules={name: module for name, module in names.items() if name is not None})

    def lowered(self, dtype: torch.dtype) -> Lowered:
        """All of it in host memory, in `dtype`. Raises what `write` raises."""
        factors = {
            name: Factors(*(torch.empty(module.rank, width, dtype=dtype) for width in self.shapes[name]))
            for name, module in self.modules.items()
        }
        self.write({name: FactorRows(PoolRows.all(each.a), PoolRows.all(each.b)) for name, each in factors.items()})
        return Lowered({name: Change(low_rank=each) for name, each in factors.items()})

    def write(self, rows: Mapping[str, FactorRows]) -> None:
        """Write the factors into `rows` in host memory, scaled in float32 and then rounded once.

        Raises NonFiniteTensor for a factor with NaN or infinite values, before or after the rounding, InputChanged.
        """
        tensors = self.layout.header.tensors
        into: dict[str, tuple[PoolRows, float | None]] = {}
        for name, module in self.modules.items():
            into[module.a] = rows[name].a, None
            into[module.b] = rows[name].b, module.scale
        path = self.layout.root / WEIGHTS_FILE
        with path.open("rb", buffering=0) as file:
            for group in _groups(tensors[name] for name in into):
                content = _read(file, group[0].begin, group[-1].end, path)
                values = [(info.begin - group[0].begin, info.dtype) for info in group]
                places, scales = zip(*(into[info.name] for info in group), strict=True)
                if (fault := lora_fill(places, content, values, scales)) is not None:
                    count = int((~places[fault].tensor.isfinite()).sum())
                    raise NonFiniteTensor(tensor=group[fault].name, path=str(path), count=count)


def is_plain(layout: AdapterLayout) -> bool:
    """Whether it is LoRA on linear layers and nothing else."""
    return bool(layout.foldable) and all(
        part.kind is Kind.LORA and not part.own and "lora_B.bias" not in part.tensors for part in layout.parts.values()
    )


def _groups(tensors: Iterable[TensorInfo]) -> Iterator[list[TensorInfo]]:
    """The tensors by what is read at once: as many neighbours as are not too much, and as are aligned to each other."""
    group: list[TensorInfo] = []
    for info in sorted(tensors, key=lambda info: info.begin):
        if group and (info.end - group[0].begin > READ_BYTES or (info.begin - group[0].begin) % 8):
            yield group
            group = []
        group.append(info)
    yield group


def _read(file: FileIO, begin: int, end: int, path: Path) -> Tensor:
    """The bytes of a part of a file, until this thread reads again: a buffer that is kept has its pages already."""
    size = end - begin
    content: Tensor | None = getattr(_kept, "content", None)
    if content is None or len(content) < size:
        content = torch.empty(max(size, BUFFER_BYTES), dtype=torch.uint8)
        if size <= BUFFER_BYTES:
            _kept.content = content
    view, done = memoryview(content.numpy())[:size], 0  # type: ignore[arg-type]
    file.seek(begin)
    while count := file.readinto(view[done:]):
        done += count
    if done != size:
        raise InputChanged(path=path)
    return content[:size]
