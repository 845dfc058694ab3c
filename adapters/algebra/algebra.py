"""Sums and products by a number of low-rank changes, in rank space: no [out, in] matrix is ever formed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from graftwork.adapters.algebra.lowrank import Approximation, signed
from graftwork.adapters.variants.lora import LoraFactors


def cat(factors: Sequence[LoraFactors], weights: Sequence[float]) -> LoraFactors:
    """The exact weighted sum: ranks add up.

    sum_t w_t b_t a_t = [w_1 b_1, w_2 b_2, ...] @ [a_1; a_2; ...]
    """
    a = np.concatenate([factor.a for factor in factors])
    b = np.concatenate([factor.b * np.float32(weight) for factor, weight in zip(factors, weights, strict=True)], axis=1)
    return LoraFactors(a, b)


def svd(factors: LoraFactors, rank: int) -> LoraFactors:
    """The change of the given rank that is nearest in the Frobenius norm (Eckart-Young)."""
    return truncate(factors, rank).factors


def truncate(factors: LoraFactors, rank: int) -> Approximation:
    """The change of the given rank that is nearest in the Frobenius norm, and the share of its square that is kept.

    QR of both factors leaves a core of [rank, rank] to decompose. The singular values go to b, as in PEFT; the largest
    entry of each row of a is positive, which makes the signs unique. Computed in float64.
    """
    left, upper = np.linalg.qr(factors.b.astype(np.float64))  # [out, r], [r, r]
    right, lower = np.linalg.qr(factors.a.T.astype(np.float64))  # [in, r], [r, r]
    u, s, vt = np.linalg.svd(upper @ lower.T)
    rank = min(rank, len(s))
    b = left @ (u[:, :rank] * s[:rank])
    a = vt[:rank] @ right.T
    total = float((s**2).sum())
    return Approximation(signed(b, a), float((s[:rank] ** 2).sum()) / total if total > 0 else 1.0)


def cores(factors: Sequence[LoraFactors]) -> list[NDArray[np.float64]]:
    """Every change in one pair of orthonormal bases, [columns of all b, rows of all a]: b_t a_t = Q_b core_t Q_a'.

    Norms, dot products and so angles between the cores are those between the changes. They have at most as many rows
    and columns as the ranks add up to. Computed in float64.
    """
    _, uppers = np.linalg.qr(np.concatenate([pair.b.astype(np.float64) for pair in factors], axis=1))
    _, lowers = np.linalg.qr(np.concatenate([pair.a.astype(np.float64) for pair in factors]).T)
    ends = np.cumsum([pair.rank for pair in factors])
    return [
        uppers[:, end - pair.rank : end] @ lowers[:, end - pair.rank : end].T
        for pair, end in zip(factors, ends, strict=True)
    ]


def scale(factors: LoraFactors, factor: float) -> LoraFactors:
    """The change multiplied by a number; only b changes."""
    return factors if factor == 1.0 else LoraFactors(factors.a, factors.b * np.float32(factor))


def negate(factors: LoraFactors) -> LoraFactors:
    """The change that undoes this one."""
    return LoraFactors(factors.a, -factors.b)
