"""PEFT's factor-wise combinations of adapters (peft.utils.merge_utils), in float32 as there.

They combine the A and the B of the adapters one by one. The product of two sums is not the sum of the products: the
result holds every b_s a_t of two different adapters, and what is pruned or elected are factors, not weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from graftwork.adapters.algebra.lowrank import generator
from graftwork.adapters.variants.lora import LoraFactors, RawFactors

Factors = NDArray[np.float32]
"""The A, or the B, of all adapters: [adapters, rows, columns]."""
Election = Literal["total", "frequency"]


@dataclass(frozen=True, slots=True)
class Draw:
    """Where the random numbers of one factor come from."""

    seed: int
    factor: str


Prune = Callable[[Factors, Draw], Factors]


def common_rank(ranks: Sequence[int]) -> int:
    """The rank of all adapters; ValueError where they differ."""
    if len(set(ranks)) > 1:
        listed = ", ".join(map(str, ranks))
        raise ValueError(f"factors can be combined only where the ranks are equal, and they are {listed}")
    return ranks[0]


def combine_factors(
    factors: Sequence[RawFactors | None],
    weights: Sequence[float],
    *,
    module: str,
    seed: int,
    prune: Prune | None = None,
    elect: Election | None = None,
) -> LoraFactors:
    """A = sum_t sign(w_t s_t) sqrt|w_t s_t| prune(A_t), B = sum_t sqrt|w_t s_t| prune(B_t), with the scale s_t.

    With `elect` the sums are means over the adapters whose entry has the elected sign. As in PEFT a single adapter is
    not pruned.
    """
    present = [(pair, weight) for pair, weight in zip(factors, weights, strict=True) if pair is not None]
    roots = [math.sqrt(abs(weight * pair.scale)) for pair, weight in present]
    signed = [root if weight * pair.scale >= 0 else -root for (pair, weight), root in zip(present, roots, strict=True)]
    alone = len(factors) == 1
    sides = []
    for side, each in (("A", signed), ("B", roots)):
        stack = np.stack([pair.a if side == "A" else pair.b for pair, _ in present])
        if prune is not None and not alone:
            stack = prune(stack, Draw(seed, f"{module}.lora_{side}"))
        weighted = stack * np.array(each, np.float32)[:, None, None]
        sides.append(weighted.sum(axis=0) if elect is None or alone else _disjoint_mean(stack, weighted, elect))
    return LoraFactors(sides[0], sides[1])


def keep_largest(density: float) -> Prune:
    """Keep int(density * n) entries of each factor by magnitude, equal ones by lowest index; 1 keeps all."""

    def prune(stack: Factors, draw: Draw) -> Factors:
        if density >= 1:
            return stack
        pruned = np.zeros_like(stack)
        for into, values in zip(pruned.reshape(len(stack), -1), stack.reshape(len(stack), -1), strict=True):
            kept = np.argsort(-np.abs(values), kind="stable")[: int(density * values.size)]
            into[kept] = values[kept]
        return pruned

    return prune


def keep_random(density: float) -> Prune:
    """Keep each entry with probability `density` and divide by it; 1 keeps all."""

    def prune(stack: Factors, draw: Draw) -> Factors:
        if density >= 1:
            return stack
        drawn = [
            generator(draw.seed, f"{draw.factor}\0{position}").random(values.shape) < density
            for position, values in enumerate(stack)
        ]
        pruned: Factors = stack * np.stack(drawn) / np.float32(density)
        return pruned

    return prune


def _disjoint_mean(stack: Factors, weighted: Factors, elect: Election) -> Factors:
    total = (stack if elect == "total" else np.sign(stack)).sum(axis=0)
    agree = np.sign(stack) == np.where(total >= 0, np.float32(1), np.float32(-1))
    mean: Factors = (weighted * agree).sum(axis=0) / np.maximum(agree.sum(axis=0), 1).astype(np.float32)
    return mean
