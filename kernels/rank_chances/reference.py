"""`rank_chances` in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from graftwork.kernels.magnitude_histogram.reference import magnitude_bits


def rank_chances(out: Tensor, x: Tensor, base: Tensor | None, width: int, low: float, high: float) -> None:
    """See `graftwork.kernels.rank_chances`."""
    bounds = torch.tensor([low, high], dtype=torch.float32, device=x.device)
    if width == 1:
        out.fill_(float(bounds.sum() / 2))
        return
    rows = magnitude_bits(x, base).view(-1, width)
    order = width - 1 - rows.flip(1).sort(dim=1, stable=True).indices  # of equals the highest index first
    ranks = torch.empty_like(order).scatter_(1, order, torch.arange(width, device=x.device).expand_as(order))
    steps = torch.tensor(width - 1, dtype=torch.float32, device=x.device)  # a GPU divides by a number inexactly
    step = (bounds[1] - bounds[0]) / steps
    out.copy_((bounds[0] + step * ranks.float()).view(out.shape))
