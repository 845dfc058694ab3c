"""`lora_expand` in plain torch."""

from __future__ import annotations

from torch import Tensor


def lora_expand(y: Tensor, h: Tensor, b: Tensor, start: Tensor, rank: Tensor, slot: Tensor) -> None:
    """See `graftwork.kernels.lora_expand`."""
    for s in sorted(set(slot.tolist())):
        if s >= 0:
            first, rows = int(start[s]), int(rank[s])
            tokens = slot == s
            update = h[tokens, :rows] @ b[first : first + rows].float()
            y[tokens] = (y[tokens].float() + update).to(y.dtype)
