"""KaSA (arXiv:2412.06071): LoRA with singular values of its own, beside a base without its smallest ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graftwork.adapters.variants.effect import Effect, Matrix
from graftwork.adapters.variants.factors import LoraFactors
from graftwork.adapters.variants.folding import Folding


@dataclass(frozen=True, slots=True)
class Kasa(Folding):
    """W0 - U_d S_d V_d' + scale B diag(d) A, where d are the singular values that training dropped.

    PEFT drops the `rank` smallest of min(in, out). The authors' own code keeps the first in - rank, which drops fewer
    where in > out, down to none; `by_inputs` says that the adapter was trained so.
    """

    trained: LoraFactors
    """The diagonal and the scale are part of b."""
    by_inputs: bool

    def effect(self, w0: Matrix, b0: Matrix | None) -> Effect:
        """Low rank."""
        return Effect(low_rank=self.pair(w0))

    def pair(self, w0: Matrix) -> LoraFactors:
        """The dropped directions are further units: the rank is up to twice the adapter's."""
        dropped = _smallest(w0, self._dropped(*w0.shape))
        a = np.concatenate([self.trained.a, dropped.a])
        return LoraFactors(a, np.concatenate([self.trained.b, -dropped.b], axis=1))

    def _dropped(self, out: int, width: int) -> int:
        kept = max(0, width - self.trained.rank) if self.by_inputs else min(out, width) - self.trained.rank
        return max(0, min(out, width) - kept)


def _smallest(matrix: Matrix, count: int) -> LoraFactors:
    """The part of a matrix that its `count` smallest singular values make up, in float64 inside.

    It is the projection of the matrix on the directions of the shorter side that the Gram matrix's smallest
    eigenvalues have, which takes a quarter of the time of a decomposition of the matrix itself.
    """
    exact = matrix.astype(np.float64)
    is_wide = exact.shape[0] <= exact.shape[1]
    _, directions = np.linalg.eigh(exact @ exact.T if is_wide else exact.T @ exact)
    smallest = directions[:, :count]
    sides = (smallest.T @ exact, smallest) if is_wide else (smallest.T, exact @ smallest)
    a, b = (side.astype(np.float32) for side in sides)
    return LoraFactors(a, b)
