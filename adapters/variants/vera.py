"""VeRA (arXiv:2310.11454): two random projections that all modules share, and two trained vectors a module."""

from __future__ import annotations

from dataclasses import dataclass

from graftwork.adapters.variants.effect import Effect, Matrix, product
from graftwork.adapters.variants.factors import Factor, LoraFactors


@dataclass(frozen=True, slots=True)
class Vera:
    """diag(lambda_b) B[:out] @ diag(lambda_d) A[:, :in], as PEFT cuts the projections to the module."""

    a: Factor
    """[rank, at least in]: vera_A"""
    b: Factor
    """[at least out, rank]: vera_B"""
    lambda_d: Factor
    """[rank]"""
    lambda_b: Factor
    """[out]"""

    def delta(self, w0: Matrix) -> Matrix:
        """[out, in]"""
        return product(self._cut(w0), w0)

    def factors(self, w0: Matrix | None) -> LoraFactors | None:
        """The vectors are folded into the projections; it takes the shape of w0."""
        return None if w0 is None else self._cut(w0)

    def effect(self, w0: Matrix, b0: Matrix | None) -> Effect:
        """Low rank."""
        return Effect(low_rank=self._cut(w0))

    def _cut(self, w0: Matrix) -> LoraFactors:
        out, width = w0.shape
        rank = len(self.lambda_d)
        a = self.lambda_d[:, None] * self.a[:rank, :width]
        return LoraFactors(a, self.lambda_b[:, None] * self.b[:out, :rank])
