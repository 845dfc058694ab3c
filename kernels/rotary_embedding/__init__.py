"""Positions of queries and keys."""

from __future__ import annotations

from graftwork.kernels.arrays import Array, empty
from graftwork.kernels.dispatch import kernel
from graftwork.kernels.dtypes import FLOATS, safetensors_name


@kernel
def rotary_embedding(x: Array, cos: Array, sin: Array) -> Array:
    """`y[t, h] = x[t, h] * cos[t] + (-b, a) * sin[t]` for the halves (a, b) of `x[t, h]`; products and sums rounded.

    Rotary position embedding (arXiv:2104.09864) in the order that transformers' models for Llama have it: element i is
    turned together with element i + width / 2.

    x:        [tokens, heads, width]  F64 F32 F16 BF16; width is even
    cos, sin: [tokens, width]         in the dtype of x
    ->        [tokens, heads, width]  in the dtype of x, on its device; bfloat16 below 2**-126 may count as zero

    Float64 is computed in float32. Raises ValueError for dtypes and shapes that do not fit.
    """
    dtype = safetensors_name(x.dtype)
    if dtype not in FLOATS or {safetensors_name(cos.dtype), safetensors_name(sin.dtype)} != {dtype}:
        raise ValueError(f"x is {x.dtype}, cos {cos.dtype}, sin {sin.dtype}; all must be floats of one dtype")
    if x.ndim != 3 or x.shape[2] % 2 or not tuple(cos.shape) == tuple(sin.shape) == (x.shape[0], x.shape[2]):
        raise ValueError(f"x is {tuple(x.shape)}, cos {tuple(cos.shape)}, sin {tuple(sin.shape)}")
    y = empty(tuple(x.shape), dtype, like=x)
    rotary_embedding.run(y, x, cos, sin)
    return y
