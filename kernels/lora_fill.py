"""LoRA's factors from the bytes of a file into rank rows, all of them in one native call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from graftwork.kernels.dispatch import native_module, native_view
from graftwork.kernels.dtypes import torch_dtype
from graftwork.kernels.lora_shrink import lora_shrink


@dataclass(frozen=True, slots=True)
class PoolRows:
    """Rows of a pool [rows, width], which nobody needs to slice for a native call."""

    pool: Tensor
    start: int
    end: int
    view: Any = None
    """Of the pool, as native calls take it, where it is kept."""

    @classmethod
    def all(cls, pool: Tensor) -> PoolRows:
        """Every row."""
        return cls(pool, 0, len(pool))

    @property
    def tensor(self) -> Tensor:
        """[rank, width]"""
        return self.pool[self.start : self.end]

    @property
    def native(self) -> Any:
        """The same as native calls take it."""
        view = self.view if self.view is not None else native_view(self.pool)
        return view.rows(self.start, self.end)


def lora_fill(
    rows: Sequence[PoolRows],
    content: Tensor,
    values: Sequence[tuple[int, str]],
    scales: Sequence[float | None],
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
        return module.lora_fill(  # type: ignore[no-any-return]
            [each.native for each in rows], content.data_ptr(), values, scales
        )
    for index, (place, (at, name), scale) in enumerate(zip(rows, values, scales, strict=True)):
        to, dtype = place.tensor, torch_dtype(name)
        value = content[at : at + to.numel() * dtype.itemsize].view(dtype)
        to.copy_(value.view(to.shape) if scale is None else (value.view(to.shape[::-1]).float() * scale).t())
        if not to.isfinite().all():
            return index
    return None
