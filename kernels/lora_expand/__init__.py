"""Second half of a batched LoRA: from rank space back, added to the base layer's output."""

from __future__ import annotations

from graftwork.kernels.arrays import Array, check_output
from graftwork.kernels.dispatch import kernel
from graftwork.kernels.dtypes import safetensors_name
from graftwork.kernels.lora_shrink import check_pool


@kernel
def lora_expand(y: Array, h: Array, b: Array, start: Array, rank: Array, slot: Array) -> None:
    """`y[t] += sum_r h[t, r] * b[start[slot[t]] + r]` in place, r below the rank of the token's slot.

    y:     [tokens, out]       F64 F32 F16 BF16  the base layer's output; rows with slot[t] < 0 are left alone
    h:     [tokens, max_rank]  F32               what `lora_shrink` gave
    b:     [rows, out]         F64 F32 F16 BF16  the B factors of all resident adapters, transposed and scaled
    start, rank, slot: as in `lora_shrink`

    The sum and its addition to y are float32, rounded once to the dtype of y. The native twin gives a token the same
    bits whatever else is in the batch.

    Raises ValueError for dtypes and shapes that do not fit.
    Source: Punica, arXiv:2310.18547, section 4 (SGMV).
    """
    check_pool(y, b, start, rank, slot)
    check_output(y)
    if h.ndim != 2 or h.shape[0] != y.shape[0] or safetensors_name(h.dtype) != "F32":
        raise ValueError(f"h must be F32 with {y.shape[0]} rows, not {h.dtype} {h.shape}")
    lora_expand.run(y, h, b, start, rank, slot)
