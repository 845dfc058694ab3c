"""Sums of float64 over a model whose order is fixed: by block, by tensor."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from graftwork.merge.slices.slices import GRAIN


@dataclass
class BlockSums:
    """Sums by block of one tensor after another, added in index order and tensor by tensor."""

    by_tensor: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def reserve(self, tensor: str, numel: int) -> None:
        """Make room for a tensor; the order of these calls is the order of the final sum."""
        self.by_tensor[tensor] = np.zeros(-(-numel // GRAIN))

    def put(self, tensor: str, offset: int, sums: NDArray[np.float64]) -> None:
        """Keep the block sums of the slice at `offset`."""
        first = offset // GRAIN
        self.by_tensor[tensor][first : first + len(sums)] = sums

    def total(self) -> float:
        """The sum of everything."""
        return float(sum(float(sums.sum()) for sums in self.by_tensor.values()))
