"""What becomes plain LoRA once the weight of the base is known."""

from __future__ import annotations

from graftwork.adapters.variants.effect import Matrix, product
from graftwork.adapters.variants.factors import LoraFactors


class Folding:
    """A variant whose change is a product that takes the base's weight; it says only which."""

    __slots__ = ()

    def pair(self, w0: Matrix) -> LoraFactors:
        """The change of w0 as a product."""
        raise NotImplementedError

    def delta(self, w0: Matrix) -> Matrix:
        """[out, in]"""
        return product(self.pair(w0), w0)

    def factors(self, w0: Matrix | None) -> LoraFactors | None:
        """It takes w0. The rank is that of all that changes side by side, more than the adapter's own."""
        return None if w0 is None else self.pair(w0)
