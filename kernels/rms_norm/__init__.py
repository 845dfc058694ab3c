"""The norm of most language models."""

from __future__ import annotations

from graftwork.kernels.arrays import Array, empty
from graftwork.kernels.dispatch import kernel
from graftwork.kernels.dtypes import FLOATS, safetensors_name


@kernel
def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """`y[t] = weight * (x[t] / sqrt(mean(x[t]**2) + eps))` in float32, the bracket and the result rounded as x is.

    Root mean square layer normalisation (arXiv:1910.07467) as transformers' models for Llama compute it.

    x:      [tokens, width]  F64 F32 F16 BF16
    weight: [width]          in the dtype of x
    ->      [tokens, width]  in the dtype of x, on its device

    Raises ValueError for dtypes and shapes that do not fit.
    """
    dtype = safetensors_name(x.dtype)
    if dtype not in FLOATS or safetensors_name(weight.dtype) != dtype:
        raise ValueError(f"x is {x.dtype} and weight is {weight.dtype}; both must be floats of one dtype")
    if x.ndim != 2 or tuple(weight.shape) != (x.shape[1],):
        raise ValueError(f"x is {tuple(x.shape)} and weight is {tuple(weight.shape)}")
    y = empty(tuple(x.shape), dtype, like=x)
    rms_norm.run(y, x, weight, float(eps))
    return y
