"""The sum of adapters at a lower rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from graftwork.adapters.algebra.algebra import cat, svd
from graftwork.adapters.variants.lora import LoraFactors
from graftwork.merge.method import Number, PerModel, Rank, merge_method


@merge_method("lora_svd", space="adapter", cites="https://doi.org/10.1007/BF02288367")
@dataclass(frozen=True, slots=True)
class LoraSvd:
    """The weighted sum of the adapters' changes, truncated to the nearest change of a given rank.

    weight: the factor of each adapter's change
    rank:   of the result; by default the largest rank among the adapters

    PEFT's `svd` gives the same change; here it is found from the factors alone, by QR of both and the SVD of a small
    core (Eckart and Young: no change of this rank is nearer in the Frobenius norm).

    Use it where the sum of several adapters has to fit a rank, or to make one adapter smaller.
    """

    weight: PerModel[Number] = (1.0,)
    rank_: Rank | None = None
    models: ClassVar[tuple[int, int | None]] = (1, None)

    def rank(self, ranks: Sequence[int]) -> int:
        """The chosen rank, as far as the adapters' ranks add up to it."""
        return min(self.rank_ or max(ranks), sum(ranks))

    def merge(self, module: str, factors: Sequence[LoraFactors | None], seed: int) -> LoraFactors:
        """Concatenate, then truncate."""
        present = [(pair, weight) for pair, weight in zip(factors, self.weight, strict=True) if pair is not None]
        exact = cat([pair for pair, _ in present], [weight for _, weight in present])
        return svd(exact, self.rank([pair.rank for pair, _ in present]))
