"""A linear layer whose rows do not depend on each other."""

from __future__ import annotations

from graftwork.kernels.arrays import Array, empty
from graftwork.kernels.dispatch import kernel
from graftwork.kernels.dtypes import FLOATS, safetensors_name


@kernel
def linear(x: Array, w: Array, bias: Array | None = None) -> Array:
    """`y[t, o] = w[o] . x[t] + bias[o]`, summed in float32 and rounded once to the dtype of x.

    x:    [tokens, in]  F64 F32 F16 BF16
    w:    [out, in]     F64 F32 F16 BF16  as a checkpoint stores it
    bias: [out]         F64 F32 F16 BF16
    ->    [tokens, out] in the dtype of x, on its device

    The native twin gives a token the same bits whatever else is in the batch, and needs no packed copy of the weight.

    Raises ValueError for dtypes and shapes that do not fit.
    """
    for name, array, dimensions in (("x", x, 2), ("w", w, 2), ("bias", bias, 1)):
        if array is not None and (array.ndim != dimensions or safetensors_name(array.dtype) not in FLOATS):
            raise ValueError(f"{name} must have {dimensions} dimensions and floats, not {array.dtype} {array.shape}")
    if x.shape[1] != w.shape[1]:
        raise ValueError(f"x has width {x.shape[1]}, w {w.shape[1]}")
    if bias is not None and bias.shape[0] != w.shape[0]:
        raise ValueError(f"bias has {bias.shape[0]} items for {w.shape[0]} outputs")
    y = empty((x.shape[0], w.shape[0]), safetensors_name(x.dtype), like=x)
    linear.run(y, x, w, bias)
    return y
