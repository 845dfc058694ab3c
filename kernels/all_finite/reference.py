"""`all_finite` in plain torch."""

from __future__ import annotations

from torch import Tensor


def all_finite(x: Tensor) -> bool:
    """See `graftwork.kernels.all_finite`."""
    return bool(x.float().isfinite().all())
