"""Whether weights are numbers, which a merge asks of everything it writes."""

from __future__ import annotations

from graftwork.kernels.arrays import Array, check_slices
from graftwork.kernels.dispatch import kernel


@kernel
def all_finite(x: Array) -> bool:
    """Whether no element, rounded to float32, is infinite or NaN.

    x: any shape, F64 F32 F16 BF16

    Raises ValueError for other dtypes.
    """
    check_slices(x=x)
    return bool(all_finite.run(x))
