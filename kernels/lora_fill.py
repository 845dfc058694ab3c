"""LoRA's factors from the bytes of a file into rank rows, all of them in one native call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from graftwork.kernels.dispatch import native_module
from graftwork.kernels.dtypes import safetensors_name, torch_dtype
from graftwork.kernels.lora_shrink import lora_shrink


def lora_fill(
    rows: Sequence[Tensor], content: Tensor, values: Sequence[tuple[int, str]], scales: Sequence[float | None]
) -> int | None:
    """`rows[i] = values[i]`, and where there is a scale `scale * values[i].T` in float32; rounded once.

    rows:    [rank, width] each, contiguous, in host memory, F64 F32 F16 BF16
    content: bytes, in host memory
    values:  where each begins in `content`, a multiple of its size, and its dtype; [rank, width], or [width, rank] with
             a scale

    Gives the first i whose rows are not finite then, after which nothing is written; None when all are.
    """
    if lora_shrink.choice(content) == "native":
        module: Any = native_module()
        array, start = module.Array, content.data_ptr()
        return module.lora_fill(  # type: ignore[no-any-return]
            [array(each.data_ptr(), safetensors_name(each.dtype), each.shape) for each in rows],
            [array(start + at, dtype, each.shape) for (at, dtype), each in zip(values, rows, strict=True)],
            scales,
        )
    for index, (to, (at, name), scale) in enumerate(zip(rows, values, scales, strict=True)):
        dtype = torch_dtype(name)
        value = content[at : at + to.numel() * dtype.itemsize].view(dtype)
        to.copy_(value.view(to.shape) if scale is None else (value.view(to.shape[::-1]).float() * scale).t())
        if not to.isfinite().all():
            return index
    return None
