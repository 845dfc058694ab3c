"""Which adapters of a base say nearly the same: the cosine of their changes, from Gram matrices in rank space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from graftwork.adapters.inspection.inspection import Shapes, low_rank
from graftwork.adapters.variants.factors import LoraFactors
from graftwork.adapters.variants.variant import Variant
from graftwork.registry.formats.peft import AdapterLayout


@dataclass(frozen=True, slots=True)
class Products:
    """The low-rank changes of an adapter, and the Frobenius norm of all of them together."""

    modules: Mapping[str, LoraFactors]
    norm: float

    def cosine(self, other: Products) -> float | None:
        """The angle between two adapters: sum of <Delta, Delta'> over the norms; a module that one lacks is zero.

        None where one of them changes nothing that is low rank.
        """
        if not self.norm or not other.norm:
            return None
        shared = self.modules.keys() & other.modules.keys()
        return sum(_dot(self.modules[name], other.modules[name]) for name in shared) / (self.norm * other.norm)


def products(layout: AdapterLayout, shapes: Shapes | None = None) -> Products:
    """Read the low-rank changes of an adapter. Raises NonFiniteTensor."""
    variant = Variant(layout)
    found = {name: low_rank(variant, name, shapes) for name in layout.parts}
    modules = {name: factors for name, factors in found.items() if factors is not None and factors.rank}
    return Products(modules, float(np.sqrt(sum(_dot(factors, factors) for factors in modules.values()))))


def _dot(left: LoraFactors, right: LoraFactors) -> float:
    """<b a, b' a'> = sum of (b^T b') * (a a'^T), each [rank, rank']; 0 for changes of different shapes."""
    if left.b.shape[0] != right.b.shape[0] or left.a.shape[1] != right.a.shape[1]:
        return 0.0
    return float(((left.b.T @ right.b).astype(np.float64) * (left.a @ right.a.T).astype(np.float64)).sum())
