"""`lora_shrink` in plain torch."""

from __future__ import annotations

from torch import Tensor


def lora_shrink(h: Tensor, x: Tensor, a: Tensor, start: Tensor, rank: Tensor, slot: Tensor) -> None:
    """See `graftwork.kernels.lora_shrink`."""
    h.zero_()
    for s in sorted(set(slot.tolist())):
        if s >= 0:
            first, rows = int(start[s]), int(rank[s])
            tokens = slot == s
            h[tokens, :rows] = x[tokens].float() @ a[first : first + rows].float().T
