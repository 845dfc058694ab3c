"""Whether an adapter computes at all, found out before anybody is served by it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from graftwork.adapters.attachment.resident import Resident
from graftwork.errors import AdapterProbeFailed


def require_finite(resident: Resident, compute: Callable[[], Iterable[Tensor]]) -> None:
    """That `compute`, a forward with the adapter, works and gives finite numbers. Raises AdapterProbeFailed."""
    try:
        finite = all(bool(torch.isfinite(result).all()) for result in compute())
    except (RuntimeError, ValueError, TypeError) as error:
        raise AdapterProbeFailed(adapter=resident.digest[:12], reason=str(error)) from error
    if not finite:
        raise AdapterProbeFailed(adapter=resident.digest[:12], reason="what it computes is not finite")
