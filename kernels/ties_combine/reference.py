"""`ties_combine` in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def kept_differences(
    base: Tensor, inputs: Sequence[Tensor], thresholds: Sequence[int], cutoffs: Sequence[int], offset: int
) -> list[Tensor]:
    """Per input the float32 difference from the base, 0 where it is trimmed."""
    position = torch.arange(offset, offset + base.numel(), device=base.device).view(base.shape)
    kept = []
    for x, threshold, cutoff in zip(inputs, thresholds, cutoffs, strict=True):
        difference = x.float() - base.float()
        bits = difference.abs().view(torch.int32)
        keep = (bits > threshold) | ((bits == threshold) & (position < cutoff))
        kept.append(torch.where(keep, difference, 0.0))
    return kept


def ties_combine(
    out: Tensor,
    base: Tensor,
    inputs: Sequence[Tensor],
    weights: Sequence[float],
    thresholds: Sequence[int],
    cutoffs: Sequence[int],
    offset: int,
    scale: float,
    vote: str,
    divide: str,
    zero_sign: int,
) -> None:
    """See `graftwork.kernels.ties_combine`."""
    kept = kept_differences(base, inputs, thresholds, cutoffs, offset)
    out.copy_(base.float() + scale * elect(kept, weights, vote, divide, zero_sign))


def elect(kept: Sequence[Tensor], weights: Sequence[float], vote: str, divide: str, zero_sign: int) -> Tensor:
    """The value that combines the kept differences which agree with the elected sign."""
    terms = [weight * difference for weight, difference in zip(weights, kept, strict=True)]
    ballots = terms if vote == "weighted" else kept
    ballot_sum = _sum(ballots)
    sign = torch.where(ballot_sum == 0, float(zero_sign), ballot_sum.sign())  # NaN stays NaN
    agrees = [ballot * sign > 0 for ballot in ballots]
    chosen = [torch.where(agree, term, 0.0) for agree, term in zip(agrees, terms, strict=True)]
    if divide == "max":
        value = torch.stack([term.abs() for term in chosen]).amax(0) * sign
    else:
        shares = [_share(divide, weight) for weight in weights]
        divisor = _sum([agree * share for agree, share in zip(agrees, shares, strict=True)])
        value = _sum(chosen) / torch.where(divisor == 0, 1.0, divisor)
    return torch.where(ballot_sum.isnan(), ballot_sum, value)


def _share(divide: str, weight: float) -> float:
    return {"weights": abs(weight), "signed_weights": weight, "count": 1.0, "none": 0.0}[divide]


def _sum(terms: Sequence[Tensor]) -> Tensor:
    total = torch.zeros_like(terms[0])
    for term in terms:
        total = total + term
    return total
