"""IA3 on a feed-forward layer: its input is scaled."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from graftwork.adapters.forms.form import Passing


@dataclass(frozen=True, slots=True)
class InputScale(Passing):
    """x -> x * scale, before the layer (arXiv:2205.05638)."""

    scale: Tensor
    """[in]"""

    def before(self, x: Tensor) -> Tensor:
        """[rows, in]"""
        return x * self.scale
