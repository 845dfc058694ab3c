"""`weighted_sum` in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def weighted_sum(
    out: Tensor, inputs: Sequence[Tensor], weights: Sequence[float], base: Tensor | None, scale: float
) -> None:
    """See `graftwork.kernels.weighted_sum`."""
    origin = None if base is None else base.float()
    terms = [
        weight * (x.float() if origin is None else x.float() - origin)
        for x, weight in zip(inputs, weights, strict=True)
    ]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    out.copy_(scale * total if origin is None else origin + scale * total)
