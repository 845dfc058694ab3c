"""`consensus_combine` in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def consensus_combine(
    out: Tensor,
    base: Tensor,
    inputs: Sequence[Tensor],
    merged: Tensor | None,
    mask_lambdas: Sequence[float],
    min_agree: int,
    scale: float,
) -> None:
    """See `graftwork.kernels.consensus_combine`."""
    differences = [x.float() - base.float() for x in inputs]
    total = torch.zeros_like(differences[0])
    for difference in differences:
        total = total + difference
    value = total if merged is None else merged.float()
    agreeing = torch.zeros(value.shape, dtype=torch.int32, device=value.device)
    for difference, mask_lambda in zip(differences, mask_lambdas, strict=True):
        agreeing += difference.abs() > mask_lambda * (value - difference).abs()
    out.copy_(base.float() + scale * torch.where(agreeing >= min_agree, value, value - value))
