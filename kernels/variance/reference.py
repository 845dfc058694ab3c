"""`variance` in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def variance(out: Tensor, base: Tensor, inputs: Sequence[Tensor]) -> None:
    """See `graftwork.kernels.variance`."""
    differences = [x.float() - base.float() for x in inputs]
    count = torch.tensor(float(len(inputs)), device=base.device)
    mean = _sum(differences) / count
    out.copy_(_sum([(difference - mean) * (difference - mean) for difference in differences]) / count)


def _sum(terms: Sequence[Tensor]) -> Tensor:
    total = torch.zeros_like(terms[0])
    for term in terms:
        total = total + term
    return total
