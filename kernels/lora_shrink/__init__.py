"""First half of a batched LoRA: the tokens of many adapters into rank space."""

from __future__ import annotations

from graftwork.kernels.arrays import Array, empty
from graftwork.kernels.dispatch import kernel
from graftwork.kernels.dtypes import FLOATS, safetensors_name


@kernel
def lora_shrink(x: Array, a: Array, start: Array, rank: Array, slot: Array, max_rank: int | None = None) -> Array:
    """`h[t, r] = a[start[slot[t]] + r] . x[t]` for r below the rank of the token's slot; 0 beyond, and without a slot.

    x:        [tokens, in]  F64 F32 F16 BF16  activations
    a:        [rows, in]    F64 F32 F16 BF16  the A factors of all resident adapters, one rank to a row
    start:    [slots] I32   first row of each slot
    rank:     [slots] I32   rows of each slot, no padding; 0 for an empty slot
    slot:     [tokens] I32  slot of each token, -1 for none
    max_rank: columns of the result, at least the largest rank; read from `rank` when None, which on a GPU waits for it
    ->        [tokens, max_rank] F32, on the device of x

    Accumulated in float32. The native twin gives a token the same bits whatever else is in the batch. Rows and slots
    out of range are an error on the CPU and undefined on a GPU.

    Raises ValueError for dtypes and shapes that do not fit.
    Source: Punica, arXiv:2310.18547, section 4 (SGMV).
    """
    check_pool(x, a, start, rank, slot)
    if max_rank is None:
        max_rank = int(rank.max()) if rank.shape[0] else 0
    h = empty((x.shape[0], max_rank), "F32", like=x)
    lora_shrink.run(h, x, a, start, rank, slot)
    return h


def check_pool(tokens: Array, pool: Array, start: Array, rank: Array, slot: Array) -> None:
    """The arguments that both halves of a batched LoRA share. Raises ValueError."""
    for name, array in (("tokens", tokens), ("pool", pool)):
        if array.ndim != 2 or safetensors_name(array.dtype) not in FLOATS:
            raise ValueError(f"the {name} must be a matrix of {', '.join(FLOATS)}, not {array.dtype} {array.shape}")
    for name, array in (("start", start), ("rank", rank), ("slot", slot)):
        if array.ndim != 1 or safetensors_name(array.dtype) != "I32":
            raise ValueError(f"{name} must be a vector of I32, not {array.dtype} {array.shape}")
    if tokens.shape[1] != pool.shape[1]:
        raise ValueError(f"the tokens have width {tokens.shape[1]}, the pool {pool.shape[1]}")
    if slot.shape[0] != tokens.shape[0]:
        raise ValueError(f"slot has {slot.shape[0]} items for {tokens.shape[0]} tokens")
    if start.shape != rank.shape:
        raise ValueError(f"start has {start.shape[0]} items, rank {rank.shape[0]}")
