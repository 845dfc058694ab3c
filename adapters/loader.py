"""From an adapter's files to what an engine computes with."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from graftwork.adapters.changes import BaseWeights, Change, Factors, Lowered
from graftwork.adapters.variants.lowering import lower
from graftwork.adapters.variants.variant import read_variant
from graftwork.errors import InputChanged, NonFiniteTensor
from graftwork.kernels.dtypes import torch_dtype
from graftwork.registry.formats.adapters.kinds import Kind
from graftwork.registry.formats.peft import CONFIG_FILE, WEIGHTS_FILE, AdapterLayout, read_adapter
from graftwork.registry.formats.safetensors import TensorInfo

LAYOUTS = 4096


def load_adapter(
    folder: Path, base: BaseWeights, dtype: torch.dtype, *, name: str | None = None, base_name: str = "in this engine"
) -> Lowered:
    """The adapter in `folder`, lowered for a base that computes in `dtype`; its tensors are on the CPU.

    The names stand for adapter and base in messages. Raises NonFiniteTensor for NaN or infinite values, InputChanged,
    and what `read_adapter` and `lower` raise.
    """
    files = [folder / file for file in (CONFIG_FILE, WEIGHTS_FILE)]
    known = all(file.is_file() for file in files)
    layout = _layout(folder, tuple(_stamp(file) for file in files)) if known else read_adapter(folder)
    if is_plain(layout):
        return load_plain(layout, dtype)
    return lower(read_variant(layout), base, dtype, adapter_name=name, base_name=base_name)


def forget_layouts() -> None:
    """Read and check the next adapter's files as if for the first time."""
    _layout.cache_clear()


def is_plain(layout: AdapterLayout) -> bool:
    """Whether it is LoRA on linear layers and nothing else."""
    return all(
        part.kind is Kind.LORA and not part.own and "lora_B.bias" not in part.tensors for part in layout.parts.values()
    )


def load_plain(layout: AdapterLayout, dtype: torch.dtype) -> Lowered:
    """LoRA's factors by one read of the file, side by side; scaled in float32 and then rounded once to `dtype`.

    Raises NonFiniteTensor for a factor with NaN or infinite values, before or after the rounding, InputChanged.
    """
    path = layout.root / WEIGHTS_FILE
    tensors = layout.header.tensors
    content = _read(path, layout.header.size)
    factors = (tensor for module in layout.foldable.values() for tensor in (module.a, module.b))
    whole = torch.empty(sum(math.prod(tensors[tensor].shape) for tensor in factors), dtype=dtype)
    changes, names, at = {}, {}, 0
    for name, module in layout.foldable.items():
        a, b = (_tensor(content, tensors[tensor]) for tensor in (module.a, module.b))
        scaled = b if module.scale == 1 else b.float() * module.scale
        places = []
        for tensor, values in ((module.a, a), (module.b, scaled.t())):
            place = whole[at : at + values.numel()].view(values.shape).copy_(values)
            places.append(place)
            names[tensor] = place
            at += values.numel()
        changes[name] = Change(low_rank=Factors(*places))
    # one pass over all without a copy; only a sum that is not finite is worth a look at every value
    if not whole.sum(dtype=torch.float32).isfinite():
        for tensor, values in names.items():
            if not (finite := values.isfinite()).all():
                raise NonFiniteTensor(tensor=tensor, path=str(path), count=int((~finite).sum()))
    return Lowered(changes)


@lru_cache(maxsize=LAYOUTS)
def _layout(folder: Path, stamps: tuple[tuple[int, int, int], ...]) -> AdapterLayout:
    """A folder's layout, read and checked once as long as its files do not change."""
    return read_adapter(folder)


def _stamp(file: Path) -> tuple[int, int, int]:
    status = file.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def _read(path: Path, size: int) -> Tensor:
    """The bytes of a file: read and not mapped, so that nobody can change them later. Raises InputChanged."""
    content = torch.empty(size, dtype=torch.uint8)
    view = memoryview(content.numpy())  # type: ignore[arg-type]
    with path.open("rb", buffering=0) as file:
        done = 0
        while count := file.readinto(view[done:]):
            done += count
    if done != size:
        raise InputChanged(path=path)
    return content


def _tensor(content: Tensor, info: TensorInfo) -> Tensor:
    part = content[info.begin : info.end]
    dtype = torch_dtype(info.dtype)
    return (part.clone() if info.begin % dtype.itemsize else part).view(dtype).view(info.shape)
