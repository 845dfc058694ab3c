"""`gated_product` in plain torch."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812  the name every reader knows
from torch import Tensor


def gated_product(out: Tensor, gate: Tensor, up: Tensor, activation: str) -> None:
    """See `graftwork.kernels.gated_product`."""
    x = gate.float()
    active = F.silu(x) if activation == "silu" else F.gelu(x, approximate="tanh")
    out.copy_(active.to(gate.dtype).float() * up.float())
