"""`ram_combine` in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def counted(base: Tensor, inputs: Sequence[Tensor], epsilon: float) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Per input its float32 difference from the base and whether it counts; and how many do: int32."""
    limit = torch.tensor(epsilon, dtype=torch.float32, device=base.device)
    differences = [x.float() - base.float() for x in inputs]
    counts = [~(difference.abs() <= limit) for difference in differences]
    total = torch.zeros(base.shape, dtype=torch.int32, device=base.device)
    for count in counts:
        total = total + count
    return differences, counts, total


def ram_combine(
    out: Tensor, base: Tensor, inputs: Sequence[Tensor], epsilon: float, boosts: Sequence[float], scale: float
) -> None:
    """See `graftwork.kernels.ram_combine`."""
    differences, counts, many = counted(base, inputs, epsilon)
    alone = shared = torch.zeros_like(differences[0])
    for difference, count, boost in zip(differences, counts, boosts, strict=True):
        kept = torch.where(count, difference, 0.0)
        shared = shared + kept
        alone = alone + boost * kept
    merged = torch.where(many == 1, alone, shared / many.clamp(min=1).float())
    out.copy_(base.float() + scale * merged)
