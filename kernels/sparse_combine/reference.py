"""`sparse_combine` in plain torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graftwork.kernels.philox.reference import uniform
from graftwork.kernels.rank_chances.reference import rank_chances
from graftwork.kernels.ties_combine.reference import elect


def own_chances(base: Tensor, x: Tensor, chance: float | Tensor | Sequence[Any]) -> float | Tensor:
    """A mask's chance, those by rank as float32 for each element."""
    if not isinstance(chance, Sequence):
        return chance
    low, high, width = chance
    chances = torch.empty(base.shape, dtype=torch.float32, device=base.device)
    rank_chances(chances, x, base, width, low, high)
    return chances


def masked_difference(base: Tensor, x: Tensor, mask: Sequence[Any], offset: int) -> Tensor:
    """The float32 difference from the base under a mask, 0 where it is not kept and NaN where it is not finite."""
    floor, floor_cutoff, ceiling, ceiling_cutoff, chance, key, factor = mask
    chance = own_chances(base, x, chance)
    difference = x.float() - base.float()
    bits = difference.abs().view(torch.int32)
    position = torch.arange(offset, offset + base.numel(), device=base.device).view(base.shape)
    keep = (bits > floor) | ((bits == floor) & (position < floor_cutoff))
    keep &= ~((bits > ceiling) | ((bits == ceiling) & (position < ceiling_cutoff)))
    if isinstance(chance, Tensor) or chance < 1:
        threshold = chance if isinstance(chance, Tensor) else torch.tensor(chance, dtype=torch.float32)
        keep &= uniform(key, offset, base.numel(), base.device).view(base.shape) < threshold
    kept = difference / chance if factor is None else difference * factor
    return torch.where(keep, kept, difference - difference)


def sparse_combine(
    out: Tensor,
    base: Tensor,
    inputs: Sequence[Tensor],
    weights: Sequence[float],
    masks: Sequence[Sequence[Any]],
    offset: int,
    scale: float,
    vote: str,
    divide: str,
) -> None:
    """See `graftwork.kernels.sparse_combine`."""
    kept = [masked_difference(base, x, mask, offset) for x, mask in zip(inputs, masks, strict=True)]
    if vote != "none":
        out.copy_(base.float() + scale * elect(kept, weights, vote, divide, 1))
        return
    total = torch.zeros_like(kept[0])
    for weight, difference in zip(weights, kept, strict=True):
        total = total + weight * difference
    out.copy_(base.float() + scale * total)
