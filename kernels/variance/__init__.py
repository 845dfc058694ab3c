"""How far the models' differences from the base disagree, element by element."""

from __future__ import annotations

from collections.abc import Sequence

from graftwork.kernels.arrays import Array, check_counts, check_output, check_slices
from graftwork.kernels.dispatch import kernel
from graftwork.kernels.dtypes import safetensors_name


@kernel
def variance(out: Array, base: Array, inputs: Sequence[Array]) -> None:
    """Write the variance over the n inputs of their differences from the base, `sum_i (d_i - mean)**2 / n`.

    out:    F32, any shape; not one of the others
    base:   of the shape of out, F64 F32 F16 BF16
    inputs: one or more like base

    d_i = inputs[i] - base and mean = sum_i d_i / n. Every value is first rounded to float32, sums run from left to
    right, each operation is rounded to float32 and none is contracted: all twins give the same bits.

    Raises ValueError for no inputs, other dtypes and shapes that differ.
    Source: FuseChat-3.0, arXiv:2408.07990, section 3.3 (Select).
    """
    check_counts(len(inputs))
    check_slices(out=out, base=base, inputs=inputs)
    check_output(out)
    if safetensors_name(out.dtype) != "F32":
        raise ValueError(f"out is {safetensors_name(out.dtype)}; the variance is F32")
    variance.run(out, base, list(inputs))
