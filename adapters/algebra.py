"""Sums and products by a number of low-rank changes, in rank space: no [out, in] matrix is ever formed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graftwork.adapters.variants.lora import LoraFactors


def cat(factors: Sequence[LoraFactors], weights: Sequence[float]) -> LoraFactors:
    """The exact weighted sum: ranks add up.

    sum_t w_t b_t a_t = [w_1 b_1, w_2 b_2, ...] @ [a_1; a_2; ...]
    """
    a = np.concatenate([factor.a for factor in factors])
    b = np.concatenate([factor.b * np.float32(weight) for factor, weight in zip(factors, weights, strict=True)], axis=1)
    return LoraFactors(a, b)


def svd(factors: LoraFactors, rank: int) -> LoraFactors:
    """The change of the given rank that is nearest in the Frobenius norm (Eckart-Young).

    QR of both factors leaves a core of [rank, rank] to decompose. The singular values go to b, as in PEFT; the largest
    entry of each row of a is positive, which makes the signs unique. Computed in float64.
    """
    left, upper = np.linalg.qr(factors.b.astype(np.float64))  # [out, r], [r, r]
    right, lower = np.linalg.qr(factors.a.T.astype(np.float64))  # [in, r], [r, r]
    u, s, vt = np.linalg.svd(upper @ lower.T)
    rank = min(rank, len(s))
    b = left @ (u[:, :rank] * s[:rank])
    a = vt[:rank] @ right.T
    signs = np.sign(a[np.arange(rank), np.abs(a).argmax(axis=1)])
    signs[signs == 0] = 1
    return LoraFactors((a * signs[:, None]).astype(np.float32), (b * signs).astype(np.float32))


def scale(factors: LoraFactors, factor: float) -> LoraFactors:
    """The change multiplied by a number; only b changes."""
    return factors if factor == 1.0 else LoraFactors(factors.a, factors.b * np.float32(factor))


def negate(factors: LoraFactors) -> LoraFactors:
    """The change that undoes this one."""
    return LoraFactors(factors.a, -factors.b)
