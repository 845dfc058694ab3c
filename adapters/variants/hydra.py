"""Hydra (arXiv:2309.06922): a parallel branch beside a layer, and a sequential one after it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graftwork.adapters.variants.effect import Effect, Matrix
from graftwork.adapters.variants.factors import Factor, LoraFactors
from graftwork.adapters.variants.folding import Folding


@dataclass(frozen=True, slots=True)
class Branch:
    """x -> scale * (up (down x + down_bias) + up_bias)"""

    down: Factor
    """[rank, in]"""
    up: Factor
    """[out, rank]"""
    down_bias: Factor | None
    """[rank]"""
    up_bias: Factor | None
    """[out]"""
    scale: float

    def shift(self) -> Factor:
        """[out]: what an input of zeros gives."""
        shift: Factor = np.zeros(len(self.up), np.float32)
        if self.down_bias is not None:
            shift = shift + self.up @ self.down_bias
        if self.up_bias is not None:
            shift = shift + self.up_bias
        return shift * np.float32(self.scale)


@dataclass(frozen=True, slots=True)
class Hydra(Folding):
    """y + parallel(x) + sequential(y), where y = W0 x + b0; both branches are linear, so all of it folds, given W0."""

    parallel: Branch | None
    sequential: Branch | None

    def effect(self, w0: Matrix, b0: Matrix | None) -> Effect:
        """Low rank, and a bias: what the branches add by themselves, and the sequential one of b0."""
        shift: Factor = np.zeros(len(w0), np.float32)
        for branch in (self.parallel, self.sequential):
            if branch is not None:
                shift = shift + branch.shift()
        if self.sequential is not None and b0 is not None:
            through = self.sequential.up @ (self.sequential.down @ b0.astype(np.float32))
            shift = shift + through * np.float32(self.sequential.scale)
        return Effect(low_rank=self.pair(w0), bias_shift=shift if shift.any() else None)

    def pair(self, w0: Matrix) -> LoraFactors:
        """Of both branches side by side, without what they add to the bias."""
        sides = []
        if self.parallel is not None:
            sides.append((self.parallel.down, self.parallel.up * np.float32(self.parallel.scale)))
        if self.sequential is not None:
            down = (self.sequential.down.astype(w0.dtype) @ w0).astype(np.float32)
            sides.append((down, self.sequential.up * np.float32(self.sequential.scale)))
        return LoraFactors(np.concatenate([a for a, _ in sides]), np.concatenate([b for _, b in sides], axis=1))
