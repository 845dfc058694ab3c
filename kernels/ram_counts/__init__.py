"""How many elements each model changed together with others, and how many alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graftwork.kernels.arrays import Array, check_counts, check_slices
from graftwork.kernels.dispatch import kernel


@kernel
def ram_counts(base: Array, inputs: Sequence[Array], epsilon: float) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Count, for each input, its differences from the base that are larger than epsilon: shared and alone.

    base:    any shape, F64 F32 F16 BF16
    inputs:  n of the shape of base
    epsilon: rounded to float32
    ->       int64 [n, 2], in host memory: elements that another input changes too, and those that none else changes

    What counts is what counts in `ram_combine`.

    Raises ValueError for no inputs, other dtypes and shapes that differ.
    Source: Reinforced Agent Merging, arXiv:2601.13572.
    """
    check_counts(len(inputs))
    check_slices(base=base, inputs=inputs)
    counts = np.empty((len(inputs), 2), np.int64)
    ram_counts.run(counts, base, list(inputs), epsilon)
    return counts
