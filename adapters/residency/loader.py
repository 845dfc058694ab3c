"""From an adapter's files to what an engine computes with."""

from __future__ import annotations

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
    return bool(layout.foldable) and all(
        part.kind is Kind.LORA and not part.own and "lora_B.bias" not in part.tensors for part in layout.parts.values()
    )


def load_plain(layout: AdapterLayout, dtype: torch.dtype) -> Lowered:
    """LoRA's factors by one read of the file, side by side; scaled in float32 and then rounded once to `dtype`.

    Raises NonFiniteTensor for a factor with NaN or infinite values, before or after the rounding, InputChanged.
    """
    path = layout.root / WEIGHTS_FILE
    tensors = layout.header.tensors
    content = _read(path, layout.header.size)
    modules = layout.foldable.values()
    a = [_tensor(content, tensors[module.a]) for module in modules]
    b = [_tensor(content, tensors[module.b]).float() for module in modules]
    # few calls for many tensors: between any two, this thread takes the interpreter from a step
    torch._foreach_mul_(b, [module.scale for module in modules])
    sources = [*a, *(values.t() for values in b)]
    whole = torch.empty(sum(values.numel() for values in sources), dtype=dtype)
    pieces = whole.split_with_sizes([values.numel() for values in sources])
    places = [place.view(values.shape) for place, values in zip(pieces, sources, strict=True)]
    torch._foreach_copy_(places, sources)
    # one pass over all without a copy; only a sum that is not finite is worth a look at every value
    if not whole.sum(dtype=torch.float32).isfinite():
        names = [*(module.a for module in modules), *(module.b for module in modules)]
        for tensor, values in zip(names, places, strict=True):
            if not (finite := values.isfinite()).all():
                raise NonFiniteTensor(tensor=tensor, path=str(path), count=int((~finite).sum()))
    factors = map(Factors, places[: len(a)], places[len(a) :])
    return Lowered({name: Change(low_rank=each) for name, each in zip(layout.foldable, factors, strict=True)})


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
