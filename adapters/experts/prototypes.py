"""Arrow's training-free router: the direction of the input that an expert answers most."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graftwork.adapters.algebra.algebra import truncate
from graftwork.adapters.variants.lora import LoraFactors


def prototype(factors: LoraFactors) -> NDArray[np.float32]:
    """The right singular vector of b a with the largest singular value, [in]; zeros for a change of zero.

    arXiv:2405.11157, section 3.2. It is exact, from the core of the two factors in float64, where PEFT iterates 15
    times from a random start; its sign does not matter, as scores are absolute values.
    """
    nearest = truncate(factors, 1).factors
    return unit_rows(nearest.a)[0] if nearest.b.any() else np.zeros_like(nearest.a[0])


def unit_rows(a: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rows of a [rank, in] at length 1: the prototypes of the ranks, each b_i a_i by itself."""
    norms = np.linalg.norm(a.astype(np.float64), axis=1, keepdims=True)
    rows: NDArray[np.float32] = (a / np.where(norms == 0, 1, norms)).astype(np.float32)
    return rows
