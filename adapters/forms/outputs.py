"""A module's output scaled, and its bias replaced: DoRA, IA3, trained biases."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from graftwork.adapters.forms.form import Passing


@dataclass(frozen=True, slots=True)
class OutputScale(Passing):
    """The whole output times a factor per feature, its bias too: y * scale (IA3, arXiv:2205.05638)."""

    scale: Tensor
    """[out]"""

    def after(self, x: Tensor, y: Tensor, low_rank_added: bool) -> Tensor:
        """[rows, out]"""
        return y * self.scale


@dataclass(frozen=True, slots=True)
class WeightScale(Passing):
    """The weight's rows scaled, as the output shows it: (y - bias) * scale + new_bias (DoRA, arXiv:2402.09353)."""

    scale: Tensor
    """[out]: the magnitude over the row norm of the changed weight."""
    bias: Tensor | None
    """[out]: what is in `y`."""
    new_bias: Tensor | None
    """[out]: what the result has."""

    def after(self, x: Tensor, y: Tensor, low_rank_added: bool) -> Tensor:
        """[rows, out]"""
        y = (y if self.bias is None else y - self.bias) * self.scale
        return y if self.new_bias is None else y + self.new_bias


@dataclass(frozen=True, slots=True)
class BiasShift(Passing):
    """A bias trained with the adapter, by what it differs from the module's own."""

    shift: Tensor
    """[out]"""

    def after(self, x: Tensor, y: Tensor, low_rank_added: bool) -> Tensor:
        """[rows, out]"""
        return y + self.shift
