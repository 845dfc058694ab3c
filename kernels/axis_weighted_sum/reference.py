"""`axis_weighted_sum` in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def axis_weighted_sum(
    out: Tensor,
    inputs: Sequence[Tensor],
    weights: Tensor,
    columns: int,
    offset: int,
    axis: str,
    base: Tensor | None,
    scale: float,
) -> None:
    """See `graftwork.kernels.axis_weighted_sum`."""
    position = torch.arange(offset, offset + out.numel(), device=out.device).view(out.shape)
    group = position // columns if axis == "row" else position % columns
    origin = None if base is None else base.float()
    terms = [
        own[group] * (x.float() if origin is None else x.float() - origin)
        for x, own in zip(inputs, weights.to(out.device), strict=True)
    ]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    out.copy_(scale * total if origin is None else origin + scale * total)
