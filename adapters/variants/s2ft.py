"""S2FT (arXiv:2412.06289): a few rows or columns of a weight trained, at their places in the base's own order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graftwork.adapters.variants.effect import Effect, Indices, Matrix
from graftwork.adapters.variants.factors import Factor, LoraFactors


@dataclass(frozen=True, slots=True)
class S2ft:
    """Blocks that are added at rows (v_proj, up_proj) or columns (o_proj, down_proj) of the weight."""

    rows: tuple[Indices, Factor] | None
    """Output indices [n] and block [n, in]."""
    columns: tuple[Indices, Factor] | None
    """Input indices [n] and block [out, n]."""

    def delta(self, w0: Matrix) -> Matrix:
        """[out, in]"""
        delta: Matrix = np.zeros_like(w0)
        if self.rows is not None:
            delta[self.rows[0]] += self.rows[1]
        if self.columns is not None:
            delta[:, self.columns[0]] += self.columns[1]
        return delta

    def factors(self, w0: Matrix | None) -> LoraFactors | None:
        """A block beside a selection matrix for each axis: the rank is the number of rows and columns. It takes w0."""
        if w0 is None:
            return None
        out, width = w0.shape
        sides = []
        if self.rows is not None:
            sides.append((self.rows[1], np.eye(out, dtype=np.float32)[:, self.rows[0]]))
        if self.columns is not None:
            sides.append((np.eye(width, dtype=np.float32)[self.columns[0]], self.columns[1]))
        return LoraFactors(np.concatenate([a for a, _ in sides]), np.concatenate([b for _, b in sides], axis=1))

    def effect(self, w0: Matrix, b0: Matrix | None) -> Effect:
        """Gathered columns, scattered rows."""
        return Effect(rows=self.rows, columns=self.columns)
