"""What lies between the projections of a gated feed-forward layer."""

from __future__ import annotations

from typing import Literal, get_args

from graftwork.kernels.arrays import Array, check_slices, empty
from graftwork.kernels.dispatch import kernel
from graftwork.kernels.dtypes import safetensors_name

Activation = Literal["silu", "gelu_tanh"]


@kernel
def gated_product(gate: Array, up: Array, activation: Activation) -> Array:
    """`activation(gate) * up`, elementwise: the activation in float32, it and the product rounded to the dtype.

    The gated linear units SwiGLU and GEGLU (arXiv:2002.05202) without their matrices, as transformers' models compute
    them: silu(x) = x / (1 + e^-x), and gelu in its approximation by tanh (arXiv:1606.08415).

    gate, up: [...]  F64 F32 F16 BF16, of one dtype and shape
    ->        [...]  in their dtype, on their device; bfloat16 below 2**-126 may count as zero

    Raises ValueError for an unknown activation and for dtypes and shapes that do not fit.
    """
    if activation not in get_args(Activation):
        raise ValueError(f"activation is {activation!r}; known are {', '.join(get_args(Activation))}")
    check_slices(gate=gate, up=up)
    dtype = safetensors_name(gate.dtype)
    if safetensors_name(up.dtype) != dtype:
        raise ValueError(f"gate is {gate.dtype} and up is {up.dtype}")
    out = empty(tuple(gate.shape), dtype, like=gate)
    gated_product.run(out, gate, up, activation)
    return out
