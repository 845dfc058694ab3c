"""`philox` in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10


def words(key: int, offset: int, count: int, device: torch.device) -> Tensor:
    """The words of `count` elements from `offset` on: int64 [count], 0..2**32-1."""
    counters = torch.arange(offset // 4, (offset + count + 3) // 4, dtype=torch.int64, device=device)
    state = [counters & WORD, counters >> 32, torch.zeros_like(counters), torch.zeros_like(counters)]
    keys = [key & WORD, key >> 32]
    for _ in range(ROUNDS):
        first, second = (state[2 * i] * MULTIPLIERS[i] for i in range(2))  # int64 wraps, the low 64 bits are right
        state = [
            (second >> 32 & WORD) ^ state[1] ^ keys[0],
            second & WORD,
            (first >> 32 & WORD) ^ state[3] ^ keys[1],
            first & WORD,
        ]
        keys = [(part + step) & WORD for part, step in zip(keys, WEYL, strict=True)]
    return torch.stack(state, dim=1).reshape(-1)[offset % 4 :][:count]


def uniform(key: int, offset: int, count: int, device: torch.device) -> Tensor:
    """The words as numbers in [0, 1): float32 [count]."""
    return (words(key, offset, count, device) >> 8).float() * 2.0**-24


def philox(out: Tensor, key: int, offset: int) -> None:
    """See `graftwork.kernels.philox`."""
    drawn = words(key, offset, out.numel(), out.device)
    out.copy_(torch.where(drawn >= 1 << 31, drawn - (1 << 32), drawn).view(out.shape))
