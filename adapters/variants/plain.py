"""LoRA (arXiv:2106.09685) and rsLoRA (arXiv:2312.03732) on a linear layer, and what folds into it without the base."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graftwork.adapters.variants.effect import Effect, Matrix, product
from graftwork.adapters.variants.factors import Factor, LoraFactors, RawFactors


@dataclass(frozen=True, slots=True)
class Plain:
    """scale * B @ A; the bias of B, where it was trained with one, is added to the module's: scale * bias."""

    raw: RawFactors
    bias: Factor | None = None
    """[out]"""

    def delta(self, w0: Matrix) -> Matrix:
        """[out, in]"""
        return product(self.factors(None), w0)

    def factors(self, w0: Matrix | None) -> LoraFactors:
        """The scale is folded into b."""
        return LoraFactors(self.raw.a, self.raw.b * np.float32(self.raw.scale))

    def effect(self, w0: Matrix, b0: Matrix | None) -> Effect:
        """Low rank, and a bias."""
        shift = None if self.bias is None else self.bias * np.float32(self.raw.scale)
        return Effect(low_rank=self.factors(None), bias_shift=shift)
