"""IA3 (arXiv:2205.05638): the outputs, or on feed-forward layers the inputs, of a module scaled."""

from __future__ import annotations

from dataclasses import dataclass

from graftwork.adapters.variants.effect import Effect, Matrix
from graftwork.adapters.variants.factors import Factor, LoraFactors


@dataclass(frozen=True, slots=True)
class Ia3Output:
    """y = scale * (W0 x + b0): rows of the weight times scale, and the bias too."""

    scale: Factor
    """[out]"""

    def delta(self, w0: Matrix) -> Matrix:
        """[out, in]: that of the bias is (scale - 1) b0."""
        delta: Matrix = (self.scale.astype(w0.dtype) - 1)[:, None] * w0
        return delta

    def factors(self, w0: Matrix | None) -> LoraFactors | None:
        """None: the change has full rank."""
        return None

    def effect(self, w0: Matrix, b0: Matrix | None) -> Effect:
        """A scale of the whole output."""
        return Effect(scale=self.scale, scales_bias=True)


@dataclass(frozen=True, slots=True)
class Ia3Input:
    """y = W0 (scale * x) + b0: columns of the weight times scale."""

    scale: Factor
    """[in]"""

    def delta(self, w0: Matrix) -> Matrix:
        """[out, in]"""
        delta: Matrix = w0 * (self.scale.astype(w0.dtype) - 1)
        return delta

    def factors(self, w0: Matrix | None) -> LoraFactors | None:
        """None: the change has full rank."""
        return None

    def effect(self, w0: Matrix, b0: Matrix | None) -> Effect:
        """A scale of the input."""
        return Effect(input_scale=self.scale)
