"""What a module's tensors amount to: the parts of `adapters.changes.Change`, before they are on any device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from graftwork.adapters.variants.factors import Factor, LoraFactors

Matrix = NDArray[Any]
"""float32 or float64: a computation stays in the precision of the base's weight that it is given."""
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Effect:
    """One module's change; see `adapters.changes.Change` for how the parts apply together."""

    low_rank: LoraFactors | None = None
    scale: Factor | None = None
    """[out]"""
    scales_bias: bool = False
    input_scale: Factor | None = None
    """[in]"""
    bias_shift: Factor | None = None
    """[out]: what is added to the bias."""
    rows: tuple[Indices, Factor] | None = None
    """Output indices [n] and block [n, in]."""
    columns: tuple[Indices, Factor] | None = None
    """Input indices [n] and block [out, n]."""
    embedding: LoraFactors | None = None
    """a [rank, vocabulary], b [dim, rank]"""


class ModuleVariant(Protocol):
    """One module of an adapter, in one format.

    w0 is the weight of the base's module: [out, in], also of a Conv1D; [vocabulary, dim] of an embedding.
    """

    def delta(self, w0: Matrix) -> Matrix:
        """The change of the weight, in its shape and dtype."""

    def factors(self, w0: Matrix | None) -> LoraFactors | None:
        """The change of the weight as a product; None where it has none, or where it takes a w0 that is not given."""

    def effect(self, w0: Matrix, b0: Matrix | None) -> Effect:
        """What to do at run time; b0 is the bias of the base's module, [out]."""


def product(factors: LoraFactors, w0: Matrix) -> Matrix:
    """b @ a in the dtype of w0, [out, in]."""
    change: Matrix = factors.b.astype(w0.dtype) @ factors.a.astype(w0.dtype)
    return change
